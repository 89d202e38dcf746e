"""status.json."""

from __future__ import annotations

import pathlib
from pathlib import Path

import pytest

from metta_train.reporting.storage import StorageError
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_status import RunStatus, read_status


def test_status_round_trip(tmp_path: Path) -> None:
    status = RunStatus("interrupted", epoch=3, agent_step=300, total_timesteps=1000, reward=0.5, message="Ctrl-C")
    with RunFolder.open(tmp_path, "a") as folder:
        assert read_status(folder.paths) is None
        folder.write_status(RunStatus("running", 0, 0, 1000))
        folder.write_status(status)
        back = read_status(folder.paths)
        assert [path.name for path in folder.paths.folder.iterdir() if path.name.startswith(".")] == []
    assert back is not None
    assert back.updated.startswith("20")
    assert RunStatus(**{**{s: getattr(back, s) for s in RunStatus.__slots__}, "updated": ""}) == status


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "happy"}', '{"state": "done"}'])
def test_an_unreadable_status_is_no_status(tmp_path: Path, content: str) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.paths.status.write_text(content)
        assert read_status(folder.paths) is None


def test_a_full_disk_leaves_the_old_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.write_status(RunStatus("running", 1, 10, 100))

        def refuse(*args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "replace", refuse)
            with pytest.raises(StorageError, match=r"could not write .*status\.json: the disk is full"):
                folder.write_status(RunStatus("running", 2, 20, 100))
        status = read_status(folder.paths)
        assert status is not None and status.epoch == 1
        assert not [path for path in folder.paths.folder.iterdir() if path.suffix == ".tmp"]
