"""Scores of few runs or episodes, told honestly: the interquartile mean and bootstrap intervals.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021
(https://arxiv.org/abs/2108.13264); the numbers agree with the authors' library rliable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from metta_train.specs.records import Estimate, ScoreSummary

CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 0  # the same scores give the same interval
_MAX_DRAWN = 1 << 22  # numbers drawn at a time: 32 MiB

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # [..., n] -> [...]


def mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    return scores.mean(axis=-1)


def median(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    return np.median(scores, axis=-1)


def interquartile_mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without its lowest and highest quarter; floor(n / 4) scores go at each end.

    Fewer than 4 scores lose none.
    """
    count = scores.shape[-1]
    cut = count // 4
    return np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1)


def bootstrap(scores: NDArray[np.float64], statistic: Statistic) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % percentile bootstrap interval of a statistic over the last axis [..., n] -> [...], [...]."""
    generator = np.random.default_rng(_SEED)
    count = scores.shape[-1]
    drawn: list[NDArray[np.float64]] = []
    at_once = max(1, _MAX_DRAWN // scores.size)
    for start in range(0, RESAMPLES, at_once):
        index = generator.integers(count, size=(min(at_once, RESAMPLES - start), count))
        drawn.append(statistic(scores[..., index]))  # [..., resamples]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(drawn, axis=-1), [tail, 1 - tail], axis=-1)
    return low, high


def summary(scores: Sequence[float]) -> ScoreSummary:
    """Everything about at least one score."""
    assert scores, "a summary needs a score"
    values = np.asarray(scores, dtype=np.float64)

    def estimate(statistic: Statistic) -> Estimate:
        low, high = bootstrap(values, statistic)
        return Estimate(float(statistic(values)), float(low), float(high))

    return ScoreSummary(
        count=len(values),
        mean=estimate(mean),
        median=estimate(median),
        iqm=estimate(interquartile_mean),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        smallest=float(values.min()),
        largest=float(values.max()),
    )
