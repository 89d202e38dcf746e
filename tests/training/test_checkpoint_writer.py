from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from metta_train.reporting.storage import StorageError
from metta_train.specs.records import Progress
from metta_train.training import checkpoint_writer, checkpoints
from metta_train.training.checkpoint_files import CheckpointState
from metta_train.training.checkpoint_writer import BACKOFF, CheckpointWriter
from metta_train.training.checkpoints import checkpoint_folders
from metta_train.training.retention import Retention

KEEP = Retention(2, 0, 0)


def saving(step: int, failures: int = 0) -> Callable[[Path], Path]:
    """Saves at its try number `failures`."""
    left = [failures]

    def save(folder: Path) -> Path:
        if left[0]:
            left[0] -= 1
            raise StorageError("could not write: the disk is full")
        return checkpoints.save(folder, {}, {}, CheckpointState(Progress(agent_step=step)))

    return save


def a_writer(folder: Path, good: Path | None = None) -> tuple[CheckpointWriter, list[float]]:
    slept: list[float] = []
    return CheckpointWriter(folder / "c", KEEP, good, sleep=slept.append), slept


def test_a_save_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer, slept = a_writer(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert writer.write(saving(1, failures=2), last=True) is not None
    assert slept == list(BACKOFF[:2])
    assert caplog.text.count("trying again") == 2


def test_without_an_older_one_a_failure_ends_the_training(tmp_path: Path) -> None:
    writer, slept = a_writer(tmp_path)
    with pytest.raises(StorageError):
        writer.write(saving(1, failures=9), last=False)
    assert slept == list(BACKOFF)


def test_with_an_older_one_it_goes_on_three_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer, _ = a_writer(tmp_path)
    assert writer.write(saving(1), last=False) is not None
    with caplog.at_level(logging.WARNING):
        assert writer.write(saving(2, failures=9), last=False) is None
        assert writer.write(saving(3, failures=9), last=False) is None
    assert "step-000000000001 is still good (failed save 1 of 3)" in caplog.text
    with pytest.raises(StorageError):
        writer.write(saving(4, failures=9), last=False)


def test_a_save_that_works_starts_the_count_again(tmp_path: Path) -> None:
    writer, _ = a_writer(tmp_path)
    for step in range(1, 12):
        writer.write(saving(step, failures=0 if step % 3 == 1 else 9), last=False)


def test_the_last_one_must_work(tmp_path: Path) -> None:
    writer, _ = a_writer(tmp_path)
    writer.write(saving(1), last=False)
    with pytest.raises(StorageError):
        writer.write(saving(2, failures=9), last=True)


def test_nothing_is_removed_before_the_new_one_is_verified(tmp_path: Path) -> None:
    writer, _ = a_writer(tmp_path)
    for step in (1, 2, 3):
        writer.write(saving(step), last=False)
    assert len(checkpoint_folders(tmp_path / "c")) == 2

    def torn(folder: Path) -> Path:
        path = saving(4)(folder)
        (path / "model.safetensors").write_bytes(b"")
        return path

    assert writer.write(torn, last=False) is None
    assert [path.name[-1] for path in checkpoint_folders(tmp_path / "c")] == ["2", "3", "4"]


def test_there_must_be_room_for_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shutil import disk_usage

    usage = disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(StorageError, match="the disk is full"):
        checkpoints.save(tmp_path / "c", {}, {}, CheckpointState(Progress(agent_step=1)))
    assert list((tmp_path / "c").iterdir()) == []


def test_records_are_on_the_disk_before_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(checkpoint_writer, "sync_file", lambda path: told.append(path.name))
    record = tmp_path / "metrics.jsonl"

    def save(folder: Path) -> Path:
        told.append("save")
        return saving(1)(folder)

    assert CheckpointWriter(tmp_path / "c", KEEP, None, [record]).write(save, last=True) is not None
    assert told == ["metrics.jsonl", "save"]


def test_a_record_that_the_disk_refuses_is_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_writer, "BACKOFF", ())
    missing = CheckpointWriter(tmp_path / "c", KEEP, None, [tmp_path / "missing.jsonl"])
    with pytest.raises(StorageError, match=r"missing\.jsonl"):
        missing.write(saving(1), last=False)
    assert not (tmp_path / "c").exists()
