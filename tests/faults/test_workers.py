"""F10: env workers that die, stop, raise, leave or hang."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.runs import CARTPOLE, FAULTY, FORAGE, Run, assert_same_run, lines, metrics, steps, train

WORKERS = [*CARTPOLE, "trainer.num_workers=2", "trainer.async_factor=2"]
LONG = "trainer.total_timesteps=1000000"
FAILED = 6


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


def a_worker(run: Run) -> int:
    return max(pid for pid in run.processes() if pid != run.process.pid)


@pytest.mark.fault("F10 worker killed")
def test_a_killed_worker_ends_the_run_with_everything_saved(data_dir: Path, tally: Tally) -> None:
    run = Run(data_dir, [*WORKERS, "run=killed", LONG])
    run.wait_until(lambda: lines(data_dir, "killed") >= 4)
    os.kill(a_worker(run), signal.SIGKILL)
    started = time.monotonic()
    ended = run.wait()
    tally.add(survived=ended.code == FAILED, recovery=time.monotonic() - started)
    assert ended.code == FAILED, ended.err
    assert "was killed by SIGKILL" in ended.err and "Traceback" not in ended.err
    run.assert_nothing_left()
    epochs = lines(data_dir, "killed")
    assert steps(data_dir, "killed")[-1] == 128 * epochs
    length = f"trainer.total_timesteps={128 * (epochs + 2)}"
    again = train(data_dir, *WORKERS, "run=killed", length)
    assert again.code == 0 and "open a new episode" not in again.err, again.err


@pytest.mark.slow
@pytest.mark.fault("F10 worker killed")
def test_after_the_death_of_a_worker_the_run_goes_on_to_the_bit(data_dir: Path) -> None:
    assert train(data_dir, *WORKERS, "run=whole").code == 0
    run = Run(data_dir, [*WORKERS, "run=again"])
    run.wait_until(lambda: lines(data_dir, "again") >= 4)
    os.kill(a_worker(run), signal.SIGKILL)
    assert run.wait(30).code == FAILED
    assert train(data_dir, *WORKERS, "run=again").code == 0
    assert_same_run(data_dir, "again", "whole")


LEARNERS = [*FORAGE, "trainer.minibatch_size=768", "trainer.checkpoint.checkpoint_interval=100"]
TWO_CORES = {"OMP_NUM_THREADS": "2"}


@pytest.mark.fault("F10 learner killed")
def test_after_the_death_of_a_learner_the_run_goes_on_to_the_bit(data_dir: Path, tally: Tally) -> None:
    whole = Run(data_dir, [*LEARNERS, "run=learned"], environ=TWO_CORES)
    assert whole.wait().code == 0
    run = Run(data_dir, [*LEARNERS, "run=relearned"], environ=TWO_CORES)
    run.wait_until(lambda: lines(data_dir, "relearned") >= 2)
    os.kill(a_worker(run), signal.SIGKILL)
    started = time.monotonic()
    ended = run.wait()
    tally.add(survived=ended.code == FAILED, recovery=time.monotonic() - started)
    assert ended.code == FAILED, ended.err
    assert "learner 1 (pid " in ended.err and "was killed by SIGKILL" in ended.err and "Traceback" not in ended.err
    run.assert_nothing_left()
    assert steps(data_dir, "relearned")[-1] == 768 * lines(data_dir, "relearned")
    again = Run(data_dir, [*LEARNERS, "run=relearned"], environ=TWO_CORES)
    assert again.wait().code == 0
    assert_same_run(data_dir, "relearned", "learned")


@pytest.mark.slow
@pytest.mark.fault("F10 worker stopped")
def test_a_stopped_worker_is_given_up_at_its_timeout(data_dir: Path) -> None:
    run = Run(data_dir, [*WORKERS, "run=stopped", LONG, "env.step_timeout=2"])
    run.wait_until(lambda: lines(data_dir, "stopped") >= 4)
    os.kill(a_worker(run), signal.SIGSTOP)
    ended = run.wait(15)
    assert ended.code == FAILED and "env.step_timeout=2" in ended.err, ended.err
    run.assert_nothing_left()
    assert steps(data_dir, "stopped")[-1] == 128 * lines(data_dir, "stopped")


@pytest.mark.slow
@pytest.mark.fault("F10 everything frozen for a while")
def test_a_frozen_machine_blames_no_worker(data_dir: Path) -> None:
    """As a paused container: the timeout passes while nobody runs, and the trainer wakes up first."""
    assert train(data_dir, *WORKERS, "run=warm").code == 0
    run = Run(data_dir, [*WORKERS, "run=frozen", "env.step_timeout=2"])
    run.wait_until(lambda: lines(data_dir, "frozen") >= 4)
    worker = a_worker(run)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(0.5)  # the trainer waits for it by now
    run.kill(signal.SIGSTOP)
    time.sleep(3.0)
    run.kill(signal.SIGCONT)
    time.sleep(0.3)
    os.kill(worker, signal.SIGCONT)
    ended = run.wait()
    assert ended.code == 0, ended.err
    assert_same_run(data_dir, "frozen", "warm")


@pytest.mark.fault("F10 worker killed, restart_budget")
def test_within_the_budget_the_run_goes_on(data_dir: Path) -> None:
    run = Run(data_dir, [*WORKERS, "run=budget", "env.restart_budget=2", "trainer.total_timesteps=5120"])
    for count in (3, 6):
        run.wait_until(lambda count=count: lines(data_dir, "budget") >= count)
        os.kill(a_worker(run), signal.SIGKILL)
        time.sleep(0.3)
    ended = run.wait()
    assert ended.code == 0, ended.err
    assert ended.err.count("A new one takes its place") == 2
    assert sum(row.get("env/worker_restarts", 0.0) for row in metrics(data_dir, "budget")) == 2


@pytest.mark.slow
@pytest.mark.fault("F10 environment raises, leaves, dies, hangs")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "the fake env is broken at step 3"),
        ("leave", "ended with exit code 0"),
        ("die", "was killed by SIGKILL"),
        ("hang", "did not answer within env.step_timeout=1"),
    ],
)
def test_what_an_environment_does_is_shown(data_dir: Path, fault: str, words: str) -> None:
    arguments = [*WORKERS, f"env.id={FAULTY}", f"+env.kwargs.fault={fault}", "env.step_timeout=1", f"run=env-{fault}"]
    run = Run(data_dir, arguments)
    ended = run.wait()
    assert ended.code == FAILED, ended.err
    assert words in ended.err
    run.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.fault("F10 slow start")
def test_a_worker_that_does_not_start_in_time(data_dir: Path) -> None:
    ended = train(data_dir, *WORKERS, "env.start_timeout=0.01", "run=slow-start")
    assert ended.code == FAILED and "env.start_timeout" in ended.err, ended.err
