from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.specs.records import Progress
from metta_train.training import checkpoints
from metta_train.training.checkpoint_files import CheckpointState
from metta_train.training.checkpoints import CheckpointSummary, checkpoint_folders
from metta_train.training.retention import Retention, prune


def a_summary(epoch: int, score: float | None = None, scored_by: str = "reward") -> CheckpointSummary:
    return CheckpointSummary(Path(f"step-{epoch:012d}"), epoch, epoch * 10, score, scored_by)


def gone(retention: Retention, *saved: CheckpointSummary) -> list[int]:
    return [summary.epoch for summary in retention.expired(saved)]


def test_the_newest_stay() -> None:
    assert gone(Retention(2, 0, 0), *(a_summary(epoch) for epoch in (4, 1, 3, 2))) == [1, 2]


def test_the_best_stays_and_of_equals_the_newer() -> None:
    saved = [a_summary(1, 0.5), a_summary(2, 0.9), a_summary(3, 0.9), a_summary(4, 0.1), a_summary(5), a_summary(6)]
    assert gone(Retention(2, 1, 0), *saved) == [1, 2, 4]


def test_an_evaluation_beats_any_reward_and_another_suite_is_another_measure() -> None:
    rewards = [a_summary(1, 90.0), a_summary(2, 91.0)]
    forage = [a_summary(3, 0.5, "suite forage"), a_summary(4, 0.4, "suite forage")]
    assert gone(Retention(2, 1, 0), *rewards, *forage, a_summary(5), a_summary(6)) == [1, 2, 4]
    arena = [a_summary(5, 0.1, "suite arena"), a_summary(6, 0.0, "suite arena")]
    assert gone(Retention(2, 1, 0), *rewards, *forage, *arena, a_summary(7), a_summary(8)) == [1, 2, 3, 4, 6]


def test_milestones_stay() -> None:
    assert gone(Retention(2, 0, 3), *(a_summary(epoch) for epoch in range(1, 9))) == [1, 2, 4, 5]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.none() | st.floats(-1, 1)), unique_by=lambda pair: pair[0]),
    st.integers(2, 5),
    st.integers(0, 3),
    st.integers(0, 7),
)
def test_never_more_than_asked_goes(saved: list[tuple[int, float | None]], last: int, best: int, every: int) -> None:
    summaries = [a_summary(*pair) for pair in saved]
    left = {s.epoch for s in summaries} - set(gone(Retention(last, best, every), *summaries))
    newest = sorted(s.epoch for s in summaries)[-last:]
    assert left >= set(newest)
    assert len(left) >= min(len(summaries), last)
    if best and (scores := [s.score for s in summaries if s.score is not None]):
        assert max(s.score for s in summaries if s.epoch in left and s.score is not None) == max(scores)
    if every:
        assert {s.epoch for s in summaries if s.epoch % every == 0} <= left


def save(folder: Path, epoch: int, reward: float) -> Path:
    state = CheckpointState(Progress(epoch=epoch, agent_step=epoch * 10), metadata={"score": reward})
    return checkpoints.save(folder, {}, {}, state)


def test_prune_removes_what_expired_and_leaves_no_trash(tmp_path: Path) -> None:
    for epoch in range(1, 7):
        save(tmp_path / "c", epoch, 1.0 / epoch)
        prune(tmp_path / "c", Retention(2, 1, 0))
    assert [path.name[-3:] for path in checkpoint_folders(tmp_path / "c")] == ["010", "050", "060"]
    assert len(list((tmp_path / "c").iterdir())) == 3


def test_damaged_checkpoints_neither_count_nor_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [save(tmp_path / "c", epoch, 0.0) for epoch in range(1, 5)]
    for path in paths[2:]:
        (path / "state.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        prune(tmp_path / "c", Retention(2, 0, 0))
    assert [path.name[-3:] for path in checkpoint_folders(tmp_path / "c")] == ["010", "020", "030", "040"]
    assert "damaged and is left alone" in caplog.text


def test_a_failed_removal_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in range(1, 5):
        save(tmp_path / "c", epoch, 0.0)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints, "remove", refuse)
    with caplog.at_level(logging.WARNING):
        prune(tmp_path / "c", Retention(2, 0, 0))
    assert "old checkpoints stay for now" in caplog.text
    assert len(checkpoint_folders(tmp_path / "c")) == 4


def test_what_a_death_leaves_while_removing_is_cleaned_up(tmp_path: Path) -> None:
    path = save(tmp_path / "c", 1, 0.0)
    save(tmp_path / "c", 2, 0.0)
    path.rename(path.with_name(f".trash-{path.name}-00"))
    checkpoints.remove_unfinished(tmp_path / "c")
    assert [path.name[-3:] for path in (tmp_path / "c").iterdir()] == ["020"]
