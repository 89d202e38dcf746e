"""One run, one process."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metta_train.training import run_lock
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_lock import RunLockedError

SOURCE = str(Path(__file__).parents[2] / "src")


def test_a_run_inside_a_run_is_refused(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a"), pytest.raises(ValueError, match="lies inside another run"):
        RunFolder.open(tmp_path, "a/checkpoints")
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a"):
        with pytest.raises(RunLockedError, match=rf"pid {os.getpid()} on .+, started 20\d\d-"):
            RunFolder.open(tmp_path, "a")
        with RunFolder.open(tmp_path, "b"):
            pass
    with RunFolder.open(tmp_path, "a"):
        pass


def test_the_lock_is_freed_by_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from metta_train.training.run_folder import RunFolder\n"
        "folder = RunFolder.open(Path(sys.argv[1]), 'a'); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={"PYTHONPATH": SOURCE}, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunLockedError, match=f"pid {holder.pid} on"):
            RunFolder.open(tmp_path, "a")
        holder.kill()
        holder.wait()
    with RunFolder.open(tmp_path, "a"):
        pass


def test_a_glance_at_the_lock_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`metta-runs list` holds it for an instant."""
    RunFolder.open(tmp_path, "a").close()
    with (tmp_path / "a" / "run.lock").open() as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)
        waited: list[float] = []

        def end_the_glance(seconds: float) -> None:
            waited.append(seconds)
            fcntl.flock(glance, fcntl.LOCK_UN)

        monkeypatch.setattr(run_lock.time, "sleep", end_the_glance)
        with RunFolder.open(tmp_path, "a"):
            assert waited == [run_lock.SECOND_TRY]


def test_a_lock_file_with_nonsense_in_it_is_no_obstacle(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.paths.lock.write_text("nonsense")
        with pytest.raises(RunLockedError, match="holder unknown"):
            RunFolder.open(tmp_path, "a")
    with RunFolder.open(tmp_path, "a"):
        pass


def test_close_twice_is_harmless(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, "a")
    folder.close()
    folder.close()
