from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.reporting.jsonl import JsonlReporter, read_metrics, truncate_metrics
from metta_train.reporting.metric_names import metrics_of
from metta_train.reporting.reporter import Reporters, RunHeader, RunOutcome
from metta_train.reporting.storage import StorageError
from tests.fakes.epoch_records import episode, epoch_record

HEADER = RunHeader(
    run="a", folder=Path("a"), agent="fast", environment="forage", device="cpu", total_parameters=1, total_timesteps=10
)


def write(path: Path, epochs: range, start_agent_step: int = 0) -> None:
    reporter = JsonlReporter(path)
    reporter.start(replace(HEADER, start_agent_step=start_agent_step))
    for epoch in epochs:
        reporter.record(epoch_record(epoch))
    reporter.finish(RunOutcome("done", 1, 1, 1.0))


def steps(path: Path) -> list[float | None]:
    return [metrics["metric/agent_step"] for metrics in read_metrics(path)]


def test_one_flat_object_per_epoch_with_every_metric(tmp_path: Path) -> None:
    record = epoch_record(episodes=[episode(0.5, stats={"agent/ore": 1.0})])
    reporter = JsonlReporter(tmp_path / "metrics.jsonl")
    reporter.start(HEADER)
    reporter.record(record)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # readable at once: flushed, not yet closed
    reporter.finish(RunOutcome("done", 1, 1, 1.0))
    assert [json.loads(line) for line in lines] == [metrics_of(record)]


def test_non_finite_values_become_null(tmp_path: Path) -> None:
    record = epoch_record()
    record = replace(record, update=replace(record.update, entropy=float("nan"), grad_norm=float("inf")))
    reporter = JsonlReporter(tmp_path / "m")
    reporter.start(HEADER)
    reporter.record(record)
    reporter.finish(RunOutcome("done", 1, 1, 1.0))
    (metrics,) = read_metrics(tmp_path / "m")
    assert metrics["losses/entropy"] is None
    assert metrics["losses/grad_norm"] is None
    assert metrics["losses/value_loss"] == 0.5


def test_a_continued_run_has_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, range(1, 6))
    write(path, range(4, 8), start_agent_step=3000)
    assert steps(path) == [1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0, 7000.0]


def test_a_fresh_run_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, range(1, 4))
    write(path, range(1, 2))
    assert steps(path) == [1000.0]


@given(cut=st.integers(0, 10_000))
def test_a_file_torn_anywhere_is_read_and_continued(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "m"
    write(path, range(1, 4))
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    whole = content.count(b"\n")
    assert steps(path) == [1000.0, 2000.0, 3000.0][:whole]
    write(path, range(whole + 1, 5), start_agent_step=whole * 1000)
    assert steps(path) == [1000.0, 2000.0, 3000.0, 4000.0]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"{}\n", b'{"metric/agent_step": "1"}\n', b"\xff\xfe\n"])
def test_nonsense_in_the_middle_is_named_and_cut_when_continuing(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "m"
    write(path, range(1, 3))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + second)
    with pytest.raises(ValueError, match="line 2"):
        list(read_metrics(path))
    truncate_metrics(path, 9999)
    assert path.read_bytes() == first


def test_a_disk_that_refuses_stops_the_training_with_a_typed_error(tmp_path: Path) -> None:
    reporters = Reporters([JsonlReporter(tmp_path / "missing" / "m")])
    with pytest.raises(StorageError, match="could not write"):
        reporters.start(HEADER)


class _SmallDisk(io.FileIO):
    """Takes `room` bytes in all, then fails as a full disk does: with a part of the last write."""

    room = 0

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        taken = super().write(data[: self.room])
        self.room -= taken
        return taken


def test_lines_wait_for_a_full_disk_and_only_the_end_insists(tmp_path: Path) -> None:
    path = tmp_path / "m"
    reporter = JsonlReporter(path)
    reporter.start(HEADER)
    assert reporter._file is not None
    reporter._file.close()
    disk = _SmallDisk(path, "ab")
    reporter._file = disk  # in the place of the file
    disk.room = 10_000
    reporter.record(epoch_record(1))
    disk.room = 50  # a torn second line
    reporter.record(epoch_record(2))
    assert [metrics["metric/epoch"] for metrics in read_metrics(path)] == [1]
    assert path.read_bytes().endswith(b"}\n")  # cut back
    disk.room = 0
    reporter.record(epoch_record(3))
    disk.room = 100_000
    reporter.record(epoch_record(4))
    assert [metrics["metric/epoch"] for metrics in read_metrics(path)] == [1, 2, 3, 4]
    disk.room = 0
    reporter.record(epoch_record(5))
    with pytest.raises(StorageError, match=r"could not write .*/m: the disk is full"):
        reporter.finish(RunOutcome("done", 1, 1, 1.0))
