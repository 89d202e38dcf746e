"""Curves out of `metrics.jsonl`: whole, or as much as a glance needs."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metta_train.reporting.jsonl import parse_metrics_line, read_metrics
from metta_train.reporting.metric_names import AGENT_STEP, EPOCH, REWARD, TOTAL_TIME
from metta_train.reporting.statistics import bootstrap, interquartile_mean
from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError, nearest_choice

LAST_SHARE = 0.1  # "the last tenth": means over it stand for how a run ended
GRID = 200  # points of an aggregated curve
_TAIL_BYTES = 64 << 10
_RATE_EPOCHS = 10

X_AXES = {"steps": AGENT_STEP, "time": TOTAL_TIME, "epoch": EPOCH}

Metrics = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one run, at those epochs that have it."""

    x: NDArray[np.float64]  # [n] ascending
    y: NDArray[np.float64]  # [n] finite

    @property
    def last_tenth(self) -> float | None:
        """Mean over the last tenth of the x axis; None for a curve without points."""
        if not len(self.x):
            return None
        return float(self.y[self.x >= self.x[-1] - LAST_SHARE * (self.x[-1] - self.x[0])].mean())

    def until(self, x: float) -> Curve:
        """The beginning, up to and with `x`."""
        return Curve(self.x[self.x <= x], self.y[self.x <= x])

    def smoothed(self, points: int) -> Curve:
        """Running mean over the last `points` values."""
        if points <= 1:
            return self
        means = [self.y[max(0, end - points) : end].mean() for end in range(1, len(self.y) + 1)]
        return Curve(self.x, np.array(means, dtype=np.float64))

    def plain(self) -> dict[str, list[float]]:
        """For JSON."""
        return {"x": self.x.tolist(), "y": self.y.tolist()}


@dataclass(frozen=True, slots=True)
class Band:
    """Several curves as one: their interquartile mean and its 95 % bootstrap interval."""

    x: NDArray[np.float64]  # [n] where all the curves have values
    iqm: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: int  # curves


def read_epochs(path: Path) -> tuple[Metrics, ...]:
    """All whole lines of a metrics file, none when there is no file.

    Raises:
        ConfigError: the file is damaged.
        StorageError: it cannot be read.
    """
    with storage_errors("read", path):
        try:
            return tuple(read_metrics(path))
        except FileNotFoundError:
            return ()
        except ValueError as error:
            raise ConfigError(str(error)) from error


def curve(epochs: Iterable[Metrics], metric: str, x: str = AGENT_STEP) -> Curve:
    """One metric over another one; epochs without a finite value of both are left out."""
    pairs = [(e.get(x), e.get(metric)) for e in epochs]
    points = np.array([p for p in pairs if None not in p], dtype=np.float64).reshape(-1, 2)
    return Curve(points[:, 0], points[:, 1])


def chosen_metrics(patterns: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Names that fit the patterns (`overview/reward`, `losses/*`), in the order of the patterns.

    Raises:
        ConfigError: a pattern that fits nothing, with the nearest name.
    """
    names = sorted(known)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        fitting = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not fitting:
            raise ConfigError(f"metric {pattern}: these runs have none of that name{nearest_choice(pattern, names)}")
        chosen |= dict.fromkeys(fitting)
    return tuple(chosen)


def wanted_metrics(patterns: Sequence[str] | None, epochs: Sequence[Sequence[Metrics]]) -> tuple[str, ...]:
    """Those of the patterns that these runs have; the reward, if none is given.

    Raises:
        ConfigError: no run has metrics, or a pattern fits nothing.
    """
    known = {name for of_run in epochs for epoch in of_run for name in epoch}
    if not known:
        raise ConfigError("these runs have no metrics yet")
    if patterns is None:
        return (REWARD,)
    return chosen_metrics(patterns, known)


def aggregate(curves: Sequence[Curve]) -> Band:
    """Curves of several seeds as one, interpolated linearly where all of them have values.

    Raises:
        ConfigError: they have no part of the x axis in common.
    """
    assert curves and all(len(c.x) for c in curves), "only curves with points can be aggregated"
    start, end = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    if start > end:
        raise ConfigError("these runs have no part of the x axis in common; plot them with --separate")
    own = sorted({float(x) for c in curves for x in c.x if start <= x <= end})
    x = np.array(own) if len(own) <= GRID else np.linspace(start, end, GRID)
    values = np.stack([np.interp(x, c.x, c.y) for c in curves], axis=-1)  # [n, seeds]
    low, high = bootstrap(values, interquartile_mean)
    return Band(x=x, iqm=interquartile_mean(values), low=low, high=high, count=len(curves))


def last_epochs(path: Path) -> tuple[Metrics, ...]:
    """The whole lines in the last 64 KiB of a metrics file; never reads more."""
    with storage_errors("read", path):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return ()
        with file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).split(b"\n")
    inside = lines[0 if size <= _TAIL_BYTES else 1 : -1]  # the first may be the end of a line, the last a torn one
    return tuple(metrics for line in inside if (metrics := parse_metrics_line(line)) is not None)


def sampled_epochs(path: Path, count: int) -> tuple[Metrics, ...]:
    """At most `count` lines spread over a metrics file, however long it is."""
    found: dict[int, Metrics] = {}
    with storage_errors("read", path):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return ()
        with file:
            size = file.seek(0, os.SEEK_END)
            for number in range(count):
                file.seek(size * number // count)
                if number:
                    file.readline()  # the rest of the line that lies here
                position, line = file.tell(), file.readline()
                metrics = parse_metrics_line(line) if line.endswith(b"\n") else None
                if metrics is not None:
                    found[position] = metrics
    return tuple(found[position] for position in sorted(found))


def recent_rate(epochs: Sequence[Metrics]) -> float | None:
    """Agent steps per second over the last epochs, by the run's own clock."""
    recent = epochs[-_RATE_EPOCHS - 1 :]
    if len(recent) < 2:
        return mean_rate(recent)
    (first_steps, first_seconds), (steps, seconds) = _position(recent[0]), _position(recent[-1])
    return (steps - first_steps) / (seconds - first_seconds) if seconds > first_seconds else None


def mean_rate(epochs: Sequence[Metrics]) -> float | None:
    """Agent steps per second from the run's beginning to the last of the epochs, by the run's own clock."""
    steps, seconds = _position(epochs[-1]) if epochs else (0.0, 0.0)
    return steps / seconds if seconds > 0 else None


def _position(epoch: Metrics) -> tuple[float, float]:
    return epoch.get(AGENT_STEP) or 0.0, epoch.get(TOTAL_TIME) or 0.0
