"""Uniform draws see every segment once; prioritised draws follow the formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metta_train.experience.minibatches import annealed_beta, draw_minibatches


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), minibatch=st.integers(1, 9), count=st.integers(1, 9))
def test_uniform_shows_each_segment_exactly_once_with_weight_exactly_one(seed: int, minibatch: int, count: int) -> None:
    advantages = torch.randn(minibatch * count, 4, generator=generator())
    draws = draw_minibatches(advantages, minibatch, prio_alpha=0.0, prio_beta=0.6, generator=generator(seed))
    assert len(draws) == count
    assert sorted(torch.cat([draw.index for draw in draws]).tolist()) == list(range(minibatch * count))
    for draw in draws:
        assert draw.index.dtype == torch.int64
        assert draw.weights.tolist() == [1.0] * minibatch


@pytest.mark.parametrize("prio_alpha", [0.0, 0.7])
def test_draws_depend_on_the_generator_alone(prio_alpha: float) -> None:
    advantages = torch.randn(64, 4, generator=generator())

    def indices(seed: int) -> list[int]:
        torch.manual_seed(torch.seed() % 1000)  # the global generator is elsewhere each time
        draws = draw_minibatches(advantages, 16, prio_alpha=prio_alpha, prio_beta=0.6, generator=generator(seed))
        return torch.cat([draw.index for draw in draws]).tolist()

    assert indices(3) == indices(3)
    assert indices(3) != indices(4)


def test_consecutive_update_epochs_differ() -> None:
    stream = generator()
    advantages = torch.zeros(64, 4)
    first, second = (
        torch.cat([d.index for d in draw_minibatches(advantages, 16, prio_alpha=0, prio_beta=1, generator=stream)])
        for _ in range(2)
    )
    assert first.tolist() != second.tolist()


def test_prioritised_weights_by_hand() -> None:
    # Sums of |A|: 1, 4, 4, 16. alpha 0.5: priorities 1, 2, 2, 4 (floor 1e-6), p = 1/9, 2/9, 2/9, 4/9.
    # S p = 4/9, 8/9, 8/9, 16/9; beta 0.5: weights 1.5, 1.06066, 1.06066, 0.75
    advantages = torch.tensor([[0.5, -0.5], [4.0, 0.0], [-2.0, 2.0], [8.0, -8.0]])
    draws = draw_minibatches(advantages, 4, prio_alpha=0.5, prio_beta=0.5, generator=generator())
    assert len(draws) == 1
    weight_of = dict(zip(draws[0].index.tolist(), draws[0].weights.tolist(), strict=True))
    assert weight_of == pytest.approx({0: 1.5, 1: math.sqrt(9 / 8), 2: math.sqrt(9 / 8), 3: 0.75}, rel=1e-5)


def test_prioritised_minibatches_hold_no_segment_twice() -> None:
    advantages = torch.randn(32, 8, generator=generator()) ** 3
    draws = draw_minibatches(advantages, 16, prio_alpha=1.0, prio_beta=1.0, generator=generator())
    assert [len(set(draw.index.tolist())) for draw in draws] == [16, 16]


def test_prioritised_draws_follow_the_probabilities() -> None:
    # One segment per minibatch, priorities 1, 2, 3, 4 at alpha 1: segment i is drawn (i + 1) / 10 of the time.
    advantages = torch.tensor([[1.0], [-2.0], [3.0], [-4.0]])
    stream = generator(1)
    drawn = torch.cat(
        [
            draw.index
            for _ in range(1000)
            for draw in draw_minibatches(advantages, 1, prio_alpha=1.0, prio_beta=1.0, generator=stream)
        ]
    )
    shares = drawn.bincount(minlength=4) / drawn.numel()
    # Standard deviation of a share over 4000 draws is below 0.008.
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.03, rtol=0.0)


def test_importance_weights_undo_the_priorities_at_beta_one() -> None:
    # With beta 1 the expectation of weight * x over draws is the mean of x: sum_i p_i (S p_i)^-1 x_i = mean x.
    advantages = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    draw = draw_minibatches(advantages, 4, prio_alpha=1.0, prio_beta=1.0, generator=generator())[0]
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])[draw.index]
    torch.testing.assert_close(probabilities * draw.weights, torch.full((4,), 0.25), rtol=1e-5, atol=0.0)


def test_no_advantage_anywhere_means_equal_weights() -> None:
    draws = draw_minibatches(torch.zeros(8, 3), 4, prio_alpha=0.5, prio_beta=0.7, generator=generator())
    for draw in draws:
        torch.testing.assert_close(draw.weights, torch.ones(4))


def test_advantages_that_are_not_finite_are_reported() -> None:
    advantages = torch.zeros(4, 3)
    advantages[1, 2] = math.nan
    advantages[3, 0] = math.inf
    with pytest.raises(FloatingPointError, match="2 of 4 segments"):
        draw_minibatches(advantages, 2, prio_alpha=0.5, prio_beta=1.0, generator=generator())


def test_minibatches_must_divide_the_segments() -> None:
    for prio_alpha in (0.0, 0.5):
        with pytest.raises(AssertionError, match="3 does not divide 8 segments"):
            draw_minibatches(torch.zeros(8, 2), 3, prio_alpha=prio_alpha, prio_beta=1.0, generator=generator())


def test_beta_rises_with_progress_and_stops_at_one() -> None:
    assert annealed_beta(0.6, 0.0, 0.5) == 0.6
    assert annealed_beta(0.6, 0.5, 0.0) == 0.6
    # 0.6 + 0.4 * 0.5 * 0.5 = 0.7
    assert annealed_beta(0.6, 0.5, 0.5) == pytest.approx(0.7)
    assert annealed_beta(0.6, 1.0, 1.0) == 1.0
    # The original reached 1.8 when it counted update epochs as progress.
    assert annealed_beta(0.6, 1.0, 3.0) == 1.0
