"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.reporting.statistics import RESAMPLES, bootstrap, interquartile_mean, mean, summary

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # fewer than 4: the mean
        ([100.0, 1.0, 2.0, -50.0], 1.5),  # (1 + 2) / 2
        ([0.0, 1.0, 2.0, 3.0, 1000.0], 2.0),  # one cut at each end: (1 + 2 + 3) / 3
        ([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0], 4.5),  # two cut at each end: (3 + 4 + 5 + 6) / 4
    ],
)
def test_interquartile_mean_by_hand(scores: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(scores)) == pytest.approx(expected)


@given(SCORES)
def test_interquartile_mean_against_a_plain_loop(scores: list[float]) -> None:
    ordered = sorted(scores)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    assert interquartile_mean(np.array(scores)) == pytest.approx(sum(kept) / len(kept), abs=1e-6)


def test_interquartile_mean_works_over_the_last_axis() -> None:
    rows = np.array([[1.0, 2.0, 3.0, 100.0], [4.0, 4.0, 6.0, 6.0]])
    assert interquartile_mean(rows).tolist() == [2.5, 5.0]


def test_the_bootstrap_interval_of_two_scores_by_hand() -> None:
    """Resamples of {0, 1} have the means 0, 1/2, 1/2, 1 equally often: 2.5 % and 97.5 % are the ends."""
    low, high = bootstrap(np.array([0.0, 1.0]), mean)
    assert (float(low), float(high)) == (0.0, 1.0)


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one() -> None:
    """400 draws of deviation 1: the mean's error is 1/20, so the interval is about +-1.96/20."""
    scores = np.random.default_rng(5).normal(size=400)
    low, high = bootstrap(scores, mean)
    assert float(high - low) == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert low < scores.mean() < high


def test_rows_are_resampled_alike_and_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.stack([np.arange(6.0), np.arange(6.0) + 10])
    low, high = bootstrap(rows, mean)
    assert low[1] - low[0] == pytest.approx(10) and high[1] - high[0] == pytest.approx(10)
    monkeypatch.setattr("metta_train.reporting.statistics._MAX_DRAWN", 12 * (RESAMPLES // 3))
    pieces = bootstrap(rows, mean)
    assert pieces[0].tolist() == low.tolist() and pieces[1].tolist() == high.tolist()


def test_a_summary_by_hand() -> None:
    said = summary([1.0, 2.0, 3.0, 10.0])
    assert (said.count, said.smallest, said.largest) == (4, 1.0, 10.0)
    assert (said.mean.value, said.median.value, said.iqm.value) == (4.0, 2.5, 2.5)
    assert said.deviation == pytest.approx((50 / 3) ** 0.5)  # 9 + 4 + 1 + 36 = 50, by n - 1 = 3
    assert said.iqm.low <= 2.5 <= said.iqm.high
    assert said == summary([1.0, 2.0, 3.0, 10.0]), "the same scores, the same interval"


def test_a_single_score_has_no_spread() -> None:
    said = summary([3.0])
    assert said.deviation == 0.0
    assert (said.mean.low, said.mean.value, said.mean.high) == (3.0, 3.0, 3.0)
