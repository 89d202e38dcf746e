"""status.json while a run trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metta_train import load_config
from metta_train.assembly.run_reports import STATUS_SECONDS, RunningStatus
from metta_train.reporting.storage import StorageError
from metta_train.specs.records import Progress
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_status import RunStatus, read_status
from metta_train.training.training_state import Standing


def at_epoch(epoch: int) -> Any:
    progress = Progress(epoch=epoch, agent_step=100 * epoch)
    return SimpleNamespace(progress=progress, standing=Standing(progress=progress, reward=0.5))


def test_it_is_written_at_once_and_then_twice_a_second_at_most(tmp_path: Path) -> None:
    config = load_config(["trainer=smoke", "wandb=off", "run=a", f"data_dir={tmp_path}"])
    now = 1000.0
    with RunFolder.open(tmp_path, "a") as folder:
        status = RunningStatus(folder, config, clock=lambda: now)
        seen = []
        for epoch in range(1, 12):
            status.epoch_ended(at_epoch(epoch))
            written = read_status(folder.paths)
            assert written is not None
            seen.append(written.epoch)
            now += STATUS_SECONDS / 4
    assert seen == [1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9]
    assert written == RunStatus("running", 9, 900, config.trainer.total_timesteps, reward=0.5, updated=written.updated)


def test_a_full_disk_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(["trainer=smoke", "wandb=off", "run=a", f"data_dir={tmp_path}"])
    asked = []

    def refuse(_: RunFolder, status: RunStatus) -> None:
        asked.append(status.epoch)
        raise StorageError("no space left on device")

    monkeypatch.setattr(RunFolder, "write_status", refuse)
    with RunFolder.open(tmp_path, "a") as folder:
        RunningStatus(folder, config).epoch_ended(at_epoch(3))
    assert asked == [3]
