"""Checkpoints by their small files, and the names that people give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metta_train.specs.config_errors import ConfigError
from metta_train.training import checkpoints
from metta_train.training.checkpoint_listing import (
    CheckpointNotFoundError,
    best_checkpoint,
    count_checkpoints,
    list_checkpoints,
    newest_checkpoint,
    select_checkpoint,
)
from metta_train.training.run_paths import RunPaths
from tests.fakes.run_folders import write_run


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """Checkpoints of 1000 to 4000 steps; the second and the third have the same score."""
    return write_run(tmp_path, "mine", scores=(0.25, 0.75, 0.75, 0.5))


def test_it_tells_what_the_checkpoints_tell(paths: RunPaths) -> None:
    listed = list_checkpoints(paths.checkpoints)
    assert [info.path for info in listed] == list(checkpoints.checkpoint_folders(paths.checkpoints))
    for info in listed:
        verified = checkpoints.summary(info.path)
        assert (info.epoch, info.agent_step, info.score) == (verified.epoch, verified.agent_step, verified.score)
        assert info.size == sum(file.stat().st_size for file in info.path.iterdir())
        assert (info.agent, info.environment, info.problem) == ("agent=fast", "forage", None)
    assert newest_checkpoint(paths.checkpoints) == listed[-1]
    assert count_checkpoints(paths.checkpoints) == 4


@pytest.mark.parametrize(
    ("selector", "step"), [("latest", 4000), ("best", 3000), ("1000", 1000), ("2,000", 2000), ("4_000", 4000)]
)
def test_selectors(paths: RunPaths, selector: str, step: int) -> None:
    assert select_checkpoint("mine", list_checkpoints(paths.checkpoints), selector).agent_step == step


@pytest.mark.parametrize("selector", ["", "newest", "-1", "1e3", "²"])
def test_other_selectors_are_a_mistake(paths: RunPaths, selector: str) -> None:
    with pytest.raises(ConfigError, match="mine:latest, mine:best or mine:<agent step>"):
        select_checkpoint("mine", list_checkpoints(paths.checkpoints), selector)


def test_a_checkpoint_that_is_not_there(paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="the nearest is mine:3000"):
        select_checkpoint("mine", list_checkpoints(paths.checkpoints), "2600")
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint yet"):
        select_checkpoint("mine", (), "latest")
    unscored = list_checkpoints(write_run(tmp_path, "unscored", scores=(None,)).checkpoints)
    assert best_checkpoint(unscored) is None
    with pytest.raises(CheckpointNotFoundError, match="use unscored:latest"):
        select_checkpoint("unscored", unscored, "best")


def test_what_is_torn_or_set_aside_is_told_apart(paths: RunPaths) -> None:
    folders = checkpoints.checkpoint_folders(paths.checkpoints)
    (folders[0] / "state.json").write_text("{")
    folders[1].rename(folders[1].with_name(f"{folders[1].name}.corrupt-1"))
    (folders[2] / "manifest.json").unlink()
    (paths.checkpoints / ".tmp-step-000000009000-1").mkdir()
    (paths.checkpoints / "step-000000008000").symlink_to(folders[3])
    assert [(info.agent_step, info.problem) for info in list_checkpoints(paths.checkpoints)] == [
        (1000, "state.json is missing or damaged"),
        (4000, None),
    ]
    aside = list_checkpoints(paths.checkpoints, set_aside=True)[1]
    assert (aside.name, aside.problem) == ("step-000000002000.corrupt-1", "set aside as damaged")
    assert count_checkpoints(paths.checkpoints) == 2


def test_a_score_of_another_kind_is_none(paths: RunPaths) -> None:
    file = list_checkpoints(paths.checkpoints)[0].path / "state.json"
    state = json.loads(file.read_text())
    for score, expected in ((True, None), ("9", None), (3, 3.0)):
        state["metadata"]["score"] = score
        file.write_text(json.dumps(state))
        assert list_checkpoints(paths.checkpoints)[0].score == expected
