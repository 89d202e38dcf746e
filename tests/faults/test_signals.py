"""F8, F9: asked to stop, a run saves in time, loses no update, and goes on to the bit."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.runs import CARTPOLE, FAULTY, FORAGE, REPOSITORY, Run, assert_same_run, lines, steps, train

PREEMPTED, INTERRUPTED = 75, 130
IN_TIME = 20.0  # seconds from a signal to the end, everything saved
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
def test_a_batch_system_asks_again_and_again(data_dir: Path, number: signal.Signals, tally: Tally) -> None:
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
        asked = time.monotonic()
        ended = process.wait()
        codes.append(ended.code)
        if ended.code == PREEMPTED:
            taken = time.monotonic() - asked
            tally.add(survived=taken < IN_TIME, recovery=taken)
            assert f"stopped by {number.name}" in ended.err
            assert lines(data_dir, run) >= before
            saved = steps(data_dir, run)
            assert (saved[-1] if saved else 0) == 128 * lines(data_dir, run)
    assert codes == [PREEMPTED] * 4 + [0]
    # The extra checkpoints are the only trace.
    assert_same_run(data_dir, run, "whole")


@pytest.mark.fault("F8 TERM, USR1, HUP")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_batch_system_asks_every_process_of_the_job(data_dir: Path, number: signal.Signals, tally: Tally) -> None:
    """As scancel and preemption do: env workers hear it too, also while they start, and leave it to the trainer."""
    run = f"everyone-{number.name.lower()}"
    arguments = [*CARTPOLE, "trainer.num_workers=2", f"run={run}"]
    assert train(data_dir, *arguments[:-1], f"run={run}-whole").code == 0
    for after in (0, 3):
        process = Run(data_dir, arguments)
        if after == 0:
            process.wait_until(lambda process=process: len(process.processes()) == 3)
        else:
            process.wait_until(lambda after=after: lines(data_dir, run) >= after)
        assert len(process.processes()) == 3
        process.kill_every_process(number)
        asked = time.monotonic()
        ended = process.wait()
        tally.add(survived=ended.code == PREEMPTED, recovery=time.monotonic() - asked)
        assert ended.code == PREEMPTED, ended.err
        assert f"stopped by {number.name}" in ended.err
        process.assert_nothing_left()
    assert train(data_dir, *arguments).code == 0
    assert_same_run(data_dir, run, f"{run}-whole")


@pytest.mark.slow
@pytest.mark.fault("F8 TERM, USR1, HUP")
@pytest.mark.parametrize(
    ("moment", "epochs"),
    [
        ("term-at-step:15", 4),  # of 4 in an epoch, which is finished
        ("term-before:open .tmp-step-000000000768-*/optimizer.safetensors", 6),
        ("term-before:rename .tmp-step-000000000768-*", 6),
    ],
)
def test_a_stop_in_the_middle_of_an_update_or_a_save(data_dir: Path, moment: str, epochs: int) -> None:
    run = f"moment{epochs}{len(moment)}"
    ended = Run(data_dir, [moment, *CARTPOLE, f"run={run}"], wrapper=["tests.faults.with_fault"]).wait()
    assert ended.code == PREEMPTED, ended.err
    assert lines(data_dir, run) == epochs and steps(data_dir, run)[-1] == 128 * epochs
    assert train(data_dir, *CARTPOLE, f"run={run}").code == 0
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
def test_ctrl_c_on_a_terminal_gives_the_terminal_back(data_dir: Path) -> None:
    """A real key press: the terminal sends SIGINT to its whole foreground group, and shows the dashboard."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    arguments = [*CARTPOLE, "run=terminal", LONG, "trainer.num_workers=2", f"data_dir={data_dir}"]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_FOREGROUND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environ,
        start_new_session=True,
    )
    shown = bytearray()
    reader = threading.Thread(target=_read_all, args=(ours, shown), daemon=True)
    reader.start()
    deadline = time.monotonic() + 60
    while lines(data_dir, "terminal") < 3:
        assert process.poll() is None and time.monotonic() < deadline, shown.decode(errors="replace")
        time.sleep(0.01)
    os.write(ours, b"\x03")
    assert process.wait(60) == PREEMPTED, shown.decode(errors="replace")
    after = termios.tcgetattr(theirs)
    os.close(theirs)
    reader.join(10)
    assert steps(data_dir, "terminal")[-1] == 128 * lines(data_dir, "terminal")
    assert after == before
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") or b"\x1b[?25l" not in shown  # the cursor is back
    assert b"Ctrl-C again" in shown and b"Traceback" not in shown


# Makes the terminal the controlling one of its session, as a shell would.
IN_FOREGROUND = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from metta_train.cli.train import main; sys.exit(main(sys.argv[1:]))"
)


def _read_all(terminal: int, into: bytearray) -> None:
    with suppress(OSError):  # the end of a terminal is an error
        while data := os.read(terminal, 4096):
            into += data


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
    assert process.wait(IN_TIME).code == PREEMPTED


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
    assert process.wait(IN_TIME).code == PREEMPTED
    assert train(data_dir, *arguments, "run=evaluated").code == 0
    assert_same_run(data_dir, "evaluated", "evaluated-whole")


@pytest.mark.slow
@pytest.mark.fault("F8 TERM, USR1, HUP")
def test_forage_with_workers_is_stopped_in_its_rollout(data_dir: Path) -> None:
    arguments = [*FORAGE, "trainer.num_workers=2", "trainer.async_factor=1"]
    process = Run(data_dir, [*arguments, "run=forage"])
    process.wait_until(lambda: lines(data_dir, "forage") >= 2)
    process.kill(signal.SIGTERM)
    ended = process.wait(IN_TIME)
    assert ended.code == PREEMPTED, ended.err
    process.assert_nothing_left()
    assert steps(data_dir, "forage")[-1] == 768 * lines(data_dir, "forage")
