"""F8, F9: asked to stop, a run saves in time, loses no update, and goes on to the bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.runs import CARTPOLE, FAULTY, FORAGE, Run, assert_same_run, lines, steps, train

PREEMPTED, INTERRUPTED = 75, 130
LONG = "trainer.total_timesteps=1000000"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signals")
    assert train(path, *CARTPOLE, "run=whole").code == 0
    return path


@pytest.mark.fault("F8 TERM, USR1, HUP")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_batch_system_asks_again_and_again(data_dir: Path, number: signal.Signals) -> None:
    """Every start gets the signal at another moment, the start-up included; no start loses an epoch."""
    run = number.name.lower()
    codes = []
    for after in (0, 1, 4, 7, 10_000):
        process = Run(data_dir, [*CARTPOLE, f"run={run}"])
        if after < 10_000:
            if after == 0:
                process.wait_until(lambda: (data_dir / run / "run.lock").exists())
            else:
                process.wait_until(lambda after=after: lines(data_dir, run) >= after)
            before = lines(data_dir, run)
            process.kill(number)
        ended = process.wait()
        codes.append(ended.code)
        if ended.code == PREEMPTED:
            assert f"stopped by {number.name}" in ended.err
            assert lines(data_dir, run) >= before
            saved = steps(data_dir, run)
            assert (saved[-1] if saved else 0) == 128 * lines(data_dir, run)
    assert codes == [PREEMPTED] * 4 + [0]
    # The extra checkpoints are the only trace.
    assert_same_run(data_dir, run, "whole")


@pytest.mark.fault("F9 Ctrl-C")
def test_ctrl_c_once_saves(data_dir: Path) -> None:
    process = Run(data_dir, [*CARTPOLE, "run=once"])
    process.wait_until(lambda: lines(data_dir, "once") >= 2)
    process.kill(signal.SIGINT)
    ended = process.wait()
    assert ended.code == PREEMPTED, ended.err
    assert "Ctrl-C again" in ended.err
    assert steps(data_dir, "once")[-1] == 128 * lines(data_dir, "once")
    assert train(data_dir, *CARTPOLE, "run=once").code == 0
    assert_same_run(data_dir, "once", "whole")


# An environment whose step takes as long as the test says; workers hang in it.
SLOW = [
    *["agent=mlp", "env=gymnasium", "wandb=off", "trainer=smoke", "trainer.num_envs=2", "trainer.bptt_horizon=4"],
    *["trainer.batch_size=8", "trainer.minibatch_size=8", "trainer.num_workers=2", "trainer.async_factor=1"],
    f"env.id={FAULTY}",
    "+env.kwargs.fault=hang",
    LONG,
]


@pytest.mark.fault("F9 Ctrl-C")
@pytest.mark.parametrize("presses", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ctrl_c_again_ends_now_though_a_worker_hangs(data_dir: Path, presses: int) -> None:
    run = f"presses{presses}"
    process = Run(data_dir, [*SLOW, f"run={run}"])
    process.wait_until(lambda: len(process.processes()) == 3)
    process.wait_until(lambda: "steps per epoch" in process.err() or "per epoch" in process.err())
    time.sleep(0.5)
    os.kill(process.process.pid, signal.SIGSTOP)  # so that the presses come together
    for _ in range(presses):
        process.kill(signal.SIGINT)
    os.kill(process.process.pid, signal.SIGCONT)
    started = time.monotonic()
    ended = process.wait()
    assert ended.code in (INTERRUPTED, PREEMPTED)  # equal signals that wait together may come as one
    assert time.monotonic() - started < 30  # the worker sleeps for a minute
    process.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.fault("F8 TERM, USR1, HUP")
def test_a_stuck_worker_does_not_hold_the_stop(data_dir: Path) -> None:
    process = Run(data_dir, [*SLOW, "run=stuck"])
    process.wait_until(lambda: "per epoch" in process.err())
    time.sleep(0.5)
    process.kill(signal.SIGTERM)
    ended = process.wait(20)
    assert ended.code == PREEMPTED, ended.err
    process.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.fault("F9 Ctrl-C")
def test_with_interrupts_ignored_only_other_signals_stop(data_dir: Path) -> None:
    """As a shell starts `command &`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = Run(data_dir, [*CARTPOLE, "run=background", LONG])
    finally:
        signal.signal(signal.SIGINT, before)
    process.wait_until(lambda: lines(data_dir, "background") >= 1)
    process.kill(signal.SIGINT)
    seen = lines(data_dir, "background")
    process.wait_until(lambda: lines(data_dir, "background") > seen + 1)
    process.kill(signal.SIGTERM)
    assert process.wait(30).code == PREEMPTED


@pytest.mark.slow
@pytest.mark.fault("F8 TERM, USR1, HUP")
def test_a_stop_in_the_middle_of_an_evaluation_or_a_long_rollout(data_dir: Path) -> None:
    """The epoch in progress is given up where finishing would take too long, and is done again."""
    arguments = [
        *CARTPOLE,
        "trainer.simulation.evaluate_interval=3",
        "trainer.simulation.num_episodes=4",
    ]
    assert train(data_dir, *arguments, "run=evaluated-whole").code == 0
    process = Run(data_dir, [*arguments, "run=evaluated"])
    process.wait_until(lambda: lines(data_dir, "evaluated") >= 2)
    process.kill(signal.SIGTERM)
    assert process.wait(30).code == PREEMPTED
    assert train(data_dir, *arguments, "run=evaluated").code == 0
    assert_same_run(data_dir, "evaluated", "evaluated-whole")


@pytest.mark.slow
@pytest.mark.fault("F8 TERM, USR1, HUP")
def test_forage_with_workers_is_stopped_in_its_rollout(data_dir: Path) -> None:
    arguments = [*FORAGE, "trainer.num_workers=2", "trainer.async_factor=1"]
    process = Run(data_dir, [*arguments, "run=forage"])
    process.wait_until(lambda: lines(data_dir, "forage") >= 2)
    process.kill(signal.SIGTERM)
    ended = process.wait(30)
    assert ended.code == PREEMPTED, ended.err
    process.assert_nothing_left()
    assert steps(data_dir, "forage")[-1] == 768 * lines(data_dir, "forage")
