"""A run folder has one owner, who writes its files whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
from pathlib import Path

import pytest

from metta_train.reporting.storage import StorageError
from metta_train.training.config_changes import config_changes
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_lock import RunLockedError
from metta_train.training.saved_config import read_config


def test_a_data_dir_that_cannot_be_made_is_one_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not make the run folder"):
        RunFolder.open(tmp_path / "file", "a")


def test_a_read_only_disk_is_one_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="read-only; use a data_dir that you may write to"):
        RunFolder.open(tmp_path, "a")


def test_invocations_are_appended_without_secrets(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.record_invocation(["metta-train", "agent=fast", "x.api_key=hunter22"])
        folder.record_invocation(["metta-train"])
        lines = [json.loads(line) for line in folder.paths.invocations.read_text().splitlines()]
    assert [line["argv"] for line in lines] == [["metta-train", "agent=fast", "x.api_key=<redacted>"], ["metta-train"]]
    assert lines[0]["pid"] == os.getpid()
    assert "torch" in lines[0]["versions"]
    assert lines[0]["time"].endswith("+00:00")


CONFIG = {
    "run": "a",
    "agent": {"name": "fast", "layers": (1, 2)},
    "env": {"num_agents": 24},
    "trainer": {"optimizer": {"learning_rate": 1e-05}, "precision": "fp32", "off": "off", "empty": {}},
    "notes": None,
}


def test_config_round_trip_keeps_types(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        assert read_config(folder.paths) is None
        assert folder.adopt_config(CONFIG, resuming=False) == ()
        back = read_config(folder.paths)
        assert back is not None
        assert config_changes(CONFIG, back) == ()
        assert back["trainer"] == CONFIG["trainer"]
        assert folder.adopt_config(CONFIG, resuming=True) == ()


def test_secrets_never_reach_the_saved_config(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config({"service": {"api_key": "hunter22", "url": "https://me:hunter22@host/x"}}, resuming=False)
        assert "hunter22" not in folder.paths.config.read_text()


def test_a_value_that_appears_twice_is_written_twice(tmp_path: Path) -> None:
    shared = [1, 2]
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config({"x": shared, "y": shared}, resuming=False)
        assert read_config(folder.paths) == {"x": [1, 2], "y": [1, 2]}


def changed(path: str, value: object) -> dict[str, object]:
    config = json.loads(json.dumps(CONFIG))
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


@pytest.mark.parametrize("key", ["agent.name", "env.num_agents"])
def test_another_agent_or_env_is_refused_when_the_run_goes_on(tmp_path: Path, key: str) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config(CONFIG, resuming=False)
        before = folder.paths.config.read_bytes()
        with pytest.raises(
            ValueError, match=rf"run='a' cannot go on with other values of these keys:\n  {key}: .* -> 9"
        ):
            folder.adopt_config(changed(key, 9), resuming=True)
        assert folder.paths.config.read_bytes() == before
        folder.adopt_config(changed(key, 9), resuming=False)


def test_other_changes_are_allowed_and_listed(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config(CONFIG, resuming=False)
        changes = folder.adopt_config(changed("trainer.optimizer.learning_rate", 0.001), resuming=True)
        assert [str(change) for change in changes] == ["trainer.optimizer.learning_rate: 1e-05 -> 0.001"]
        assert folder.adopt_config(changed("trainer.optimizer.learning_rate", 0.001), resuming=True) == ()


def test_files_that_a_dead_process_was_replacing_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (".status.json.123.tmp", ".config.yaml.7.tmp", "notes.tmp", "status.json"):
        (tmp_path / "a" / name).write_text("{")
    with RunFolder.open(tmp_path, "a"):
        assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["notes.tmp", "run.lock", "status.json"]


def test_clear_leaves_the_lock_alone(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        (folder.paths.checkpoints / "step-1").mkdir(parents=True)
        (folder.paths.folder / ".trash-left").mkdir()
        folder.paths.metrics.write_text("{}")
        folder.clear()
        assert [path.name for path in folder.paths.folder.iterdir()] == ["run.lock"]
        with pytest.raises(RunLockedError):
            RunFolder.open(tmp_path, "a")
