from __future__ import annotations

from pathlib import Path

import pytest

from metta_train.reporting.reporter import Reporter, Reporters, RunHeader, RunOutcome
from metta_train.specs.records import EpochRecord
from tests.fakes.epoch_records import epoch_record

HEADER = RunHeader(
    run="a", folder=Path("a"), agent="fast", environment="forage", device="cpu", total_parameters=1, total_timesteps=10
)
OUTCOME = RunOutcome(state="done", epoch=1, agent_step=10, elapsed=1.0)


class ScriptedReporter(Reporter):
    """Writes down what it hears and fails where it is told to."""

    def __init__(self, name: str, heard: list[str], fails_at: str = "", error: type[Exception] = OSError) -> None:
        self.name = name
        self._heard = heard
        self._fails_at = fails_at
        self._error = error

    def _hear(self, what: str) -> None:
        self._heard.append(f"{self.name}.{what}")
        if what == self._fails_at:
            raise self._error("no space left")

    def start(self, header: RunHeader) -> None:
        self._hear("start")

    def record(self, record: EpochRecord) -> None:
        self._hear("record")

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        self._hear("checkpoint")

    def finish(self, outcome: RunOutcome) -> None:
        self._hear("finish")


def tell(reporters: Reporters) -> None:
    reporters.start(HEADER)
    reporters.record(epoch_record())
    reporters.checkpoint_saved(Path("c"), 1, 10)
    reporters.finish(OUTCOME)


def test_all_are_told_in_order_and_finished_once() -> None:
    heard: list[str] = []
    reporters = Reporters([ScriptedReporter("a", heard), ScriptedReporter("b", heard)])
    tell(reporters)
    reporters.finish(OUTCOME)
    words = ("start", "record", "checkpoint", "finish")
    assert heard == [f"{name}.{word}" for word in words for name in "ab"]


def test_one_that_cannot_write_is_named_once_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    reporters = Reporters([ScriptedReporter("a", heard, fails_at="record"), ScriptedReporter("b", heard)])
    tell(reporters)
    assert heard == ["a.start", "b.start", "a.record", "b.record", "b.checkpoint", "b.finish"]
    assert [record.getMessage() for record in caplog.records] == [
        "a cannot report (no space left); the training goes on without it"
    ]


def test_an_essential_one_stops_the_training() -> None:
    heard: list[str] = []
    essential = ScriptedReporter("a", heard, fails_at="record")
    essential.essential = True
    reporters = Reporters([essential, ScriptedReporter("b", heard)])
    reporters.start(HEADER)
    with pytest.raises(OSError, match="no space"):
        reporters.record(epoch_record())
    reporters.finish(OUTCOME)
    assert heard == ["a.start", "b.start", "a.record", "a.finish", "b.finish"]


def test_all_are_finished_even_if_an_essential_one_fails_then() -> None:
    heard: list[str] = []
    essential = ScriptedReporter("a", heard, fails_at="finish")
    essential.essential = True
    Reporters([essential, ScriptedReporter("b", heard)]).finish(OUTCOME)
    assert heard == ["a.finish", "b.finish"]


def test_a_bug_in_a_reporter_is_not_hidden() -> None:
    reporters = Reporters([ScriptedReporter("a", [], fails_at="record", error=KeyError)])
    with pytest.raises(KeyError):
        reporters.record(epoch_record())
