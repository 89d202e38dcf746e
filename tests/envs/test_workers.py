"""Worker processes: failures are told, nothing is left behind, nothing heavy is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.envs.build import make_vector_env
from metta_train.envs.child_process import STOP_SIGNALS
from metta_train.envs.vector import VectorEnv, WorkerError
from metta_train.envs.workers import WorkerVectorEnv, share_envs
from tests.envs.env_configs import env_config

FAKE = "tests.fakes.gymnasium_envs:Fake-v0"


def fake_workers(fault: str, *, num_workers: int = 2, step_timeout: float = 120.0) -> WorkerVectorEnv:
    config = env_config("gymnasium", {"id": FAKE, "kwargs": {"fault": fault}, "step_timeout": step_timeout})
    envs = make_vector_env(config, num_envs=2, num_workers=num_workers, num_slices=1, seed=1)
    assert isinstance(envs, WorkerVectorEnv)
    return envs


def step(envs: VectorEnv, times: int) -> None:
    for _ in range(times):
        envs.send(0, np.zeros(envs.num_rows, np.int64))
        envs.receive(0)


def alive(pid: int) -> bool:
    """Not counting zombies, whose parent has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def shared_files(pid: int) -> list[str]:
    """Memory with a name that the process shares."""
    maps = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [columns[5] for columns in maps if len(columns) > 5 and columns[5].startswith("/dev/shm/")]


def assert_all_end(pids: tuple[int, ...], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def test_an_exception_in_an_env_is_shown_with_its_traceback() -> None:
    envs = fake_workers("raise")
    envs.reset()
    step(envs, 2)
    pids = envs.worker_pids
    with pytest.raises(
        WorkerError, match=r"(?s)env worker \d \(pid \d+\) failed.*gymnasium_envs\.py.*broken at step 3"
    ):
        step(envs, 1)
    assert_all_end(pids)


def test_a_killed_worker_is_noticed_at_once() -> None:
    envs = fake_workers("die")
    envs.reset()
    step(envs, 2)
    started = time.monotonic()
    with pytest.raises(WorkerError, match="was killed by SIGKILL; perhaps the machine ran out of memory"):
        step(envs, 1)
    assert time.monotonic() - started < 100  # the step timeout is 120


def test_a_worker_that_died_between_steps_is_told_at_the_next_one() -> None:
    envs = fake_workers("none")
    envs.reset()
    os.kill(envs.worker_pids[1], signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"env worker 1 .* was killed by SIGKILL"):
        step(envs, 1)


def test_a_hanging_worker_is_given_up_and_killed() -> None:
    envs = fake_workers("hang", step_timeout=3.0)
    envs.reset()
    step(envs, 2)
    pids = envs.worker_pids
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"did not answer within env\.step_timeout=3 seconds"):
        step(envs, 1)
    assert time.monotonic() - started < 30  # the worker would sleep for a minute
    assert_all_end(pids)


def test_a_worker_that_cannot_start_is_told() -> None:
    config = env_config("gymnasium", {"start_timeout": 0.001})
    with pytest.raises(WorkerError, match=r"did not answer within env\.start_timeout=0\.001 seconds"):
        make_vector_env(config, num_envs=1, num_workers=1, num_slices=1, seed=1)


def test_close_ends_all_workers_and_may_be_called_again() -> None:
    envs = fake_workers("none")
    envs.reset()
    pids = envs.worker_pids
    assert len(set(pids)) == 2 and all(alive(pid) for pid in pids)
    started = time.monotonic()
    envs.close()
    envs.close()
    assert time.monotonic() - started < 5
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(AssertionError, match="closed"):
        envs.send(0, np.zeros(2, np.int64))


def test_close_while_a_step_is_in_flight() -> None:
    envs = fake_workers("hang")
    envs.reset()
    step(envs, 2)
    envs.send(0, np.zeros(2, np.int64))
    pids = envs.worker_pids
    started = time.monotonic()
    envs.close()
    assert time.monotonic() - started < 6
    assert_all_end(pids)


def test_requests_to_stop_are_left_to_the_trainer() -> None:
    """Those of Ctrl-C, which only the trainer's group hears, and of batch systems, which every process does."""
    with fake_workers("none") as envs:
        assert isinstance(envs, WorkerVectorEnv)
        envs.reset()
        for pid in envs.worker_pids:
            assert os.getpgid(pid) != os.getpgid(0)
            for number in STOP_SIGNALS:
                os.kill(pid, number)
        step(envs, 5)


TRAINER = """
import sys, numpy as np
from tests.envs.test_workers import fake_workers, step
envs = fake_workers({fault!r})
envs.reset()
step(envs, 2)
print(*envs.worker_pids, flush=True)
{then}
"""


def run_trainer(fault: str, then: str) -> tuple[subprocess.Popen[str], tuple[int, ...]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER.format(fault=fault, then=then)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    return process, tuple(int(pid) for pid in process.stdout.readline().split())


@pytest.mark.parametrize(
    ("fault", "then"),
    [
        ("none", "sys.stdin.read() or __import__('time').sleep(60)"),  # idle workers
        ("hang", "envs.send(0, np.zeros(2, np.int64)); envs.receive(0)"),  # workers stuck in a step
    ],
)
def test_workers_die_with_a_killed_trainer(fault: str, then: str) -> None:
    process, pids = run_trainer(fault, then)
    with process:
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        time.sleep(0.2)
        shared = [file for pid in (process.pid, *pids) for file in shared_files(pid)]
        process.kill()
    assert_all_end(pids)
    assert not [file for file in shared if os.path.exists(file)]


STARTING = """
import sys
from tests.envs.test_workers import fake_workers
sys.path.insert(0, {folder!r})
fake_workers("none")
"""


def test_workers_that_are_still_importing_die_with_a_killed_trainer(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("import time; time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", STARTING.format(folder=str(tmp_path))],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])},
    ) as process:
        deadline = time.monotonic() + 60
        while len(children := psutil.Process(process.pid).children()) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        time.sleep(0.5)
        process.kill()
    assert_all_end(tuple(child.pid for child in children))


STUCK = """
import os, subprocess, sys
child = (
    "import os, threading; from metta_train.envs.parent_death import end_without; "
    "threading.Thread(target=end_without, args=(os.getppid(),), daemon=True).start(); print(1, flush=True); "
    "exec('while True: pass')"
)
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
process.wait()
"""


def test_where_no_signal_tells_of_it_a_busy_worker_sees_that_its_trainer_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert alive(child)
        process.kill()
    assert_all_end((child,))


def test_a_trainer_that_fails_without_closing_ends_and_leaves_no_workers() -> None:
    process, pids = run_trainer("none", "raise RuntimeError('trainer')")
    with process:
        assert process.wait(60) == 1
    assert_all_end(pids)


def test_workers_do_not_load_torch_even_if_the_trainer_has() -> None:
    code = """
import torch
from tests.envs.env_configs import tiny_forage
from metta_train.envs.build import make_vector_env
with make_vector_env(tiny_forage(), num_envs=1, num_workers=1, num_slices=1, seed=1) as envs:
    envs.reset()
    print(open(f"/proc/{envs.worker_pids[0]}/maps").read())
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "mettagrid_c" in result.stdout and "torch" not in result.stdout


@given(st.integers(1, 6), st.integers(1, 8), st.data())
def test_workers_share_all_envs_evenly(num_slices: int, size: int, data: st.DataObject) -> None:
    num_envs = num_slices * size
    num_workers = data.draw(st.integers(1, num_envs))
    shares = share_envs(num_envs, num_slices, num_workers)
    assert len(shares) == num_workers
    for index in range(num_slices):
        envs = sorted(env for share in shares for env in share[index])
        assert envs == list(range(index * size, (index + 1) * size))
        counts = [len(share[index]) for share in shares]
        assert max(counts) - min(counts) <= 1
    assert all(any(share) for share in shares)  # nobody is idle
