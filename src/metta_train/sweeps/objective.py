"""What a run is worth in one number, and why it may have none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from metta_train.reporting.curves import curve, read_epochs
from metta_train.reporting.metric_names import REWARD
from metta_train.specs.config_errors import nearest_choice


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


def why_none(names: Iterable[str], metric: str) -> str:
    """Why a metric has no value, in a line.

    Args:
        names: of the metrics that there are.
        metric: the one that was asked for.
    """
    if metric == REWARD:
        return f"no episode ended, so there is no {metric}: more trainer.total_timesteps would tell"
    return f"no epoch has the metric {metric}{nearest_choice(metric, sorted(names))}"
