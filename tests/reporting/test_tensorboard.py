"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from metta_train.reporting.metric_names import metrics_of
from metta_train.reporting.reporter import Reporters, RunHeader, RunOutcome
from metta_train.reporting.tensorboard import TensorBoardReporter, require_tensorboard
from metta_train.specs.config_errors import ConfigError
from tests.fakes.epoch_records import episode, epoch_record

DONE = RunOutcome("done", 2, 2000, 4.0)


def header(start_agent_step: int = 0) -> RunHeader:
    return RunHeader("mine", Path(), "fast", "forage", "cpu", 10, 10_000, start_agent_step=start_agent_step)


def write(folder: Path, epochs: range, start_agent_step: int = 0) -> None:
    reporter = TensorBoardReporter(folder)
    reporter.start(header(start_agent_step))
    for epoch in epochs:
        reporter.record(epoch_record(epoch, episodes=[episode(float(epoch))]))
    reporter.finish(DONE)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    assert isinstance(names, list)
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def steps(folder: Path) -> list[int]:
    return [step for step, _ in read(folder)["overview/reward"]]


def test_every_metric_is_there_under_its_own_name_over_agent_steps(tmp_path: Path) -> None:
    write(tmp_path / "t", range(1, 3))
    found = read(tmp_path / "t")
    expected = metrics_of(epoch_record(2, episodes=[episode(2.0)]))
    assert {name: values[-1] for name, values in found.items()} == {
        name: (2000, pytest.approx(value)) for name, value in expected.items()
    }
    assert found["overview/reward"] == [(1000, 1.0), (2000, 2.0)]


def test_a_run_that_goes_on_has_every_step_once(tmp_path: Path) -> None:
    write(tmp_path / "t", range(1, 6))
    write(tmp_path / "t", range(4, 7), start_agent_step=3000)
    assert steps(tmp_path / "t") == [1000, 2000, 3000, 4000, 5000, 6000]
    assert [value for _, value in read(tmp_path / "t")["overview/reward"]] == [1, 2, 3, 4, 5, 6]
    write(tmp_path / "t", range(3, 4), start_agent_step=2000)
    assert steps(tmp_path / "t") == [1000, 2000, 3000]
    assert len(list((tmp_path / "t").iterdir())) == 2, "a file without events is gone"


def test_a_reader_that_has_seen_too_much_forgets_it(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path / "t", range(1, 6))
    watching = EventAccumulator(str(tmp_path / "t"))
    watching.Reload()
    write(tmp_path / "t", range(4, 5), start_agent_step=3000)
    watching.Reload()
    assert [event.step for event in watching.Scalars("overview/reward")] == [1000, 2000, 3000, 4000]


def test_a_torn_end_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "t", range(1, 4))
    (file,) = (tmp_path / "t").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    write(tmp_path / "t", range(3, 5), start_agent_step=9000)
    assert steps(tmp_path / "t") == [1000, 2000, 3000, 4000]


def test_a_rollback_takes_events_back(tmp_path: Path) -> None:
    reporter = TensorBoardReporter(tmp_path / "t")
    reporter.start(header())
    for epoch in (1, 2, 3):
        reporter.record(epoch_record(epoch, episodes=[episode(1.0)]))
    reporter.rolled_back(1000)
    reporter.record(epoch_record(2, episodes=[episode(7.0)]))
    reporter.finish(DONE)
    assert read(tmp_path / "t")["overview/reward"] == [(1000, 1.0), (2000, 7.0)]


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t").write_text("a file")
    reporters = Reporters([TensorBoardReporter(tmp_path / "t")])
    with caplog.at_level(logging.WARNING):
        reporters.start(header())
        reporters.record(epoch_record())
        reporters.finish(DONE)
    assert "TensorBoard cannot report" in caplog.text


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_tensorboard()
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(ConfigError, match=r"pip install 'metta-train\[tensorboard\]'"):
        require_tensorboard()
