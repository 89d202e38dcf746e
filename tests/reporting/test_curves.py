"""Curves out of metrics files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from metta_train.reporting.curves import (
    Curve,
    aggregate,
    chosen_metrics,
    curve,
    last_epochs,
    mean_rate,
    read_epochs,
    recent_rate,
    sampled_epochs,
)
from metta_train.specs.config_errors import ConfigError


def write(path: Path, count: int, padding: int = 0) -> Path:
    """Epochs of 100 steps and 2 seconds; every other one has a reward of its number."""
    lines = []
    for epoch in range(1, count + 1):
        line = {"metric/agent_step": 100.0 * epoch, "metric/epoch": float(epoch), "metric/total_time": 2.0 * epoch}
        line |= {"overview/reward": float(epoch)} if epoch % 2 == 0 else {}
        lines.append(json.dumps({**line, "padding": "x" * padding}))
    path.write_text("\n".join(lines) + "\n")
    return path


def points(x: list[float], y: list[float]) -> Curve:
    return Curve(np.array(x), np.array(y))


def test_a_curve_has_the_epochs_that_have_the_metric(tmp_path: Path) -> None:
    epochs = read_epochs(write(tmp_path / "metrics.jsonl", 5))
    found = curve(epochs, "overview/reward")
    assert (found.x.tolist(), found.y.tolist()) == ([200.0, 400.0], [2.0, 4.0])
    assert curve(epochs, "overview/reward", "metric/total_time").x.tolist() == [4.0, 8.0]
    assert len(curve(epochs, "nothing").x) == 0


def test_null_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"metric/agent_step": 1, "a": null}\n{"metric/agent_step": 2, "a": 5}\n{"metric/agent_st')
    found = curve(read_epochs(path), "a")
    assert (found.x.tolist(), found.y.tolist()) == ([2.0], [5.0])
    assert read_epochs(tmp_path / "none.jsonl") == ()


def test_a_damaged_file_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"metric/agent_step": 1}\nnothing\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2"):
        read_epochs(path)


def test_smoothing_and_the_last_tenth_by_hand() -> None:
    rising = points([float(x) for x in range(0, 101, 10)], [float(y) for y in range(11)])
    assert rising.last_tenth == 9.5  # x = 90 and 100
    assert rising.smoothed(3).y.tolist()[:4] == [0.0, 0.5, 1.0, 2.0]
    assert points([], []).last_tenth is None


def test_aggregation_interpolates_where_all_curves_have_values() -> None:
    first = points([0.0, 10.0, 20.0], [0.0, 10.0, 20.0])
    second = points([5.0, 15.0], [7.0, 17.0])
    third = points([0.0, 20.0], [3.0, 23.0])
    band = aggregate([first, second, third])
    # At 5, 10 and 15 the curves are x, x + 2 and x + 3.
    assert band.x.tolist() == [5.0, 10.0, 15.0]
    assert band.iqm.tolist() == pytest.approx([5 + 5 / 3, 10 + 5 / 3, 15 + 5 / 3])
    assert band.low.tolist() == pytest.approx([5.0, 10.0, 15.0])
    assert band.high.tolist() == pytest.approx([8.0, 13.0, 18.0])
    assert band.count == 3
    with pytest.raises(ConfigError, match="--separate"):
        aggregate([first, points([30.0, 40.0], [1.0, 1.0])])


def test_metrics_are_chosen_by_name_or_pattern() -> None:
    known = ["overview/reward", "losses/entropy", "losses/policy_loss"]
    assert chosen_metrics(["overview/reward", "losses/*"], known) == tuple(known)
    with pytest.raises(ConfigError, match=r"overview/rewrad: .*did you mean overview/reward\?"):
        chosen_metrics(["overview/rewrad"], known)


@pytest.mark.parametrize("padding", [0, 1000])
def test_a_glance_reads_the_ends_and_a_sample(tmp_path: Path, padding: int) -> None:
    path = write(tmp_path / "metrics.jsonl", 500, padding)
    tail = last_epochs(path)
    assert tail[-1]["metric/epoch"] == 500 and (len(tail) < 500) == (padding > 0)
    assert recent_rate(tail) == mean_rate(tail) == 50.0
    sample = [epoch["metric/epoch"] or 0.0 for epoch in sampled_epochs(path, 20)]
    assert sample[0] == 1 and len(sample) == 20 and sample == sorted(set(sample))
    gaps = np.diff([*sample, 501])
    assert gaps.max() <= 30, "spread evenly"


def test_a_short_file_is_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", 3)
    assert [epoch["metric/epoch"] for epoch in last_epochs(path)] == [1, 2, 3]
    assert [epoch["metric/epoch"] for epoch in sampled_epochs(path, 20)] == [1, 2, 3]
    assert recent_rate(last_epochs(path)[:1]) == 50.0
    assert recent_rate(()) is mean_rate(()) is None
    assert last_epochs(tmp_path / "none") == sampled_epochs(tmp_path / "none", 3) == ()
