"""What a run is worth in one number."""

from __future__ import annotations

from pathlib import Path

from metta_train.reporting.curves import curve, read_epochs
from metta_train.reporting.metric_names import REWARD

__all__ = ["REWARD", "objective_of"]


def objective_of(metrics: Path, metric: str = REWARD) -> float | None:
    """Mean of a metric over the last tenth of a run's agent steps; None when no epoch has it.

    Args:
        metrics: the run's `metrics.jsonl`.
        metric: e.g. "overview/reward".

    Raises:
        ConfigError: the file is damaged.
        StorageError: it cannot be read.
    """
    return curve(read_epochs(metrics), metric).last_tenth
