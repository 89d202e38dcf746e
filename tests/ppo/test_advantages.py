"""Advantages against hand-computed rows and a slow float64 twin."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metta_train.ppo.advantages import compute_advantages, normalize_advantages


def slow_advantages(
    values: Tensor,
    bootstrap_values: Tensor,
    rewards: Tensor,
    terminations: Tensor,
    truncations: Tensor,
    truncation_values: Tensor,
    ratio: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    rho_clip: float,
    c_clip: float,
) -> Tensor:
    """The definition, in Python floats."""
    num_segments, num_steps = values.shape
    advantages = torch.zeros(num_segments, num_steps, dtype=torch.float64)
    for s in range(num_segments):
        following = 0.0
        for t in reversed(range(num_steps)):
            terminated, truncated = bool(terminations[s, t]), bool(truncations[s, t])
            if terminated:
                next_value = 0.0
            elif truncated:
                next_value = float(truncation_values[s, t])
            elif t == num_steps - 1:
                next_value = float(bootstrap_values[s])
            else:
                next_value = float(values[s, t + 1])
            if terminated or truncated:
                following = 0.0
            rho = min(float(ratio[s, t]), rho_clip)
            c = min(float(ratio[s, t]), c_clip)
            delta = rho * (float(rewards[s, t]) + gamma * next_value - float(values[s, t]))
            following = delta + gamma * gae_lambda * c * following
            advantages[s, t] = following
    return advantages


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


def flags(*steps: int) -> Tensor:
    return torch.tensor([steps], dtype=torch.bool)


def test_worked_row_of_the_reference() -> None:
    # The original's row (reference 14) is in a shifted convention: rewards[t+1] and dones[t+1] belong to action t, and
    # the last column only lends its value. So its 4 columns are 3 steps here: rewards and flags move one to the left
    # (the first reward, 9, belongs to an action before the segment), and the last value is the bootstrap.
    #   values [0.5, 1, -0.5 | 2.0], rewards [9 | 1, 0, 2], dones [0 | 0, 1, 0], ratio [1, 2, 0.5]
    # gamma 0.9, lambda 0.8, clips 1:
    #   A_2 = 0.5 * (2 + 0.9 * 2.0 - (-0.5))               = 0.5 * 4.3          =  2.15
    #   A_1 = min(2, 1) * (0 + 0 - 1), the episode ends    =                      -1.0
    #   A_0 = 1 * (1 + 0.9 * 1 - 0.5) + 0.9 * 0.8 * (-1.0) = 1.4 - 0.72         =  0.68
    advantages = compute_advantages(
        row(0.5, 1.0, -0.5),
        torch.tensor([2.0]),
        row(1.0, 0.0, 2.0),
        flags(0, 1, 0),
        flags(0, 0, 0),
        row(0.0, 0.0, 0.0),
        row(1.0, 2.0, 0.5),
        gamma=0.9,
        gae_lambda=0.8,
        rho_clip=1.0,
        c_clip=1.0,
    )
    torch.testing.assert_close(advantages, row(0.68, -1.0, 2.15))


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # gamma 0.5, lambda 0.5, values [1, 2], bootstrap 4, rewards [10, 20]; A_1 = 20 + 0.5 * 4 - 2 = 20.
        # No ending:   A_0 = 10 + 0.5 * 2 - 1 + 0.25 * 20 = 10 + 5 = 15
        (0, 0, 15.0),
        # Terminated:  A_0 = 10 + 0 - 1 = 9
        (1, 0, 9.0),
        # Truncated with V(final) = 6: A_0 = 10 + 0.5 * 6 - 1 = 12
        (0, 1, 12.0),
        # Both: terminated wins.
        (1, 1, 9.0),
    ],
)
def test_endings(terminated: int, truncated: int, expected: float) -> None:
    advantages = compute_advantages(
        row(1.0, 2.0),
        torch.tensor([4.0]),
        row(10.0, 20.0),
        flags(terminated, 0),
        flags(truncated, 0),
        row(6.0, 0.0),
        row(1.0, 1.0),
        gamma=0.5,
        gae_lambda=0.5,
        rho_clip=1.0,
        c_clip=1.0,
    )
    assert advantages.tolist() == [[expected, 20.0]]


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    # One step, value 1, reward 3, bootstrap 8, V(final) 5, gamma 0.5: 3 + 0.5 * next - 1.
    [(0, 0, 6.0), (1, 0, 2.0), (0, 1, 4.5), (1, 1, 2.0)],
)
def test_the_last_step_is_credited(terminated: int, truncated: int, expected: float) -> None:
    advantages = compute_advantages(
        row(1.0),
        torch.tensor([8.0]),
        row(3.0),
        flags(terminated),
        flags(truncated),
        row(5.0),
        row(1.0),
        gamma=0.5,
        gae_lambda=0.9,
        rho_clip=1.0,
        c_clip=1.0,
    )
    assert advantages.tolist() == [[expected]]


def test_rho_and_c_are_clipped_apart() -> None:
    # ratio 3 at both steps, rho_clip 2, c_clip 0.5, gamma 1, lambda 1, values 0, bootstrap 0, rewards [1, 10]:
    #   A_1 = 2 * 10 = 20;  A_0 = 2 * 1 + 0.5 * 20 = 12
    advantages = compute_advantages(
        row(0.0, 0.0),
        torch.tensor([0.0]),
        row(1.0, 10.0),
        flags(0, 0),
        flags(0, 0),
        row(0.0, 0.0),
        row(3.0, 3.0),
        gamma=1.0,
        gae_lambda=1.0,
        rho_clip=2.0,
        c_clip=0.5,
    )
    assert advantages.tolist() == [[12.0, 20.0]]


def test_values_that_nobody_may_read_are_not_read() -> None:
    # Steps 0 and 2 terminate; only step 1 goes on, without truncation.
    #   A_2 = 1 - 2 = -1;  A_1 = 1 + 0.5 * 2 - 3 + 0.25 * (-1) = -1.25;  A_0 = 1 - 1 = 0
    advantages = compute_advantages(
        row(1.0, 3.0, 2.0),
        torch.tensor([math.inf]),
        row(1.0, 1.0, 1.0),
        flags(1, 0, 1),
        flags(0, 0, 0),
        row(math.nan, math.nan, math.nan),
        row(1.0, 1.0, 1.0),
        gamma=0.5,
        gae_lambda=0.5,
        rho_clip=1.0,
        c_clip=1.0,
    )
    assert advantages.tolist() == [[0.0, -1.25, -1.0]]


def test_no_gradient_and_no_argument_is_written_to() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(3, 5, generator=generator) for _ in range(4)]
    values, rewards, truncation_values = (numbers[i].requires_grad_() for i in range(3))
    ratio = numbers[3].exp().requires_grad_()
    bootstrap = torch.randn(3, generator=generator, requires_grad=True)
    ends = torch.rand(3, 5, generator=generator) < 0.3
    arguments = (values, bootstrap, rewards, ends, ends.roll(1), truncation_values, ratio)
    before = [argument.detach().clone() for argument in arguments]
    advantages = compute_advantages(*arguments, gamma=0.9, gae_lambda=0.9, rho_clip=1.0, c_clip=1.0)
    assert not advantages.requires_grad
    assert advantages.is_contiguous()
    assert advantages.dtype == torch.float32
    for argument, copy in zip(arguments, before, strict=True):
        assert torch.equal(argument, copy)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_segments=st.integers(1, 5),
    num_steps=st.integers(1, 17),
    ending_rate=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    gamma=st.floats(0.0, 1.0),
    gae_lambda=st.floats(0.0, 1.0),
    rho_clip=st.floats(0.1, 3.0),
    c_clip=st.floats(0.1, 3.0),
)
def test_equals_the_slow_twin(
    seed: int,
    num_segments: int,
    num_steps: int,
    ending_rate: float,
    gamma: float,
    gae_lambda: float,
    rho_clip: float,
    c_clip: float,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(num_segments, num_steps, generator=generator)

    def endings() -> Tensor:
        return torch.rand(num_segments, num_steps, generator=generator) < ending_rate

    arguments = (normal(), normal()[:, 0], normal(), endings(), endings(), normal(), (0.5 * normal()).exp())
    settings_ = {"gamma": gamma, "gae_lambda": gae_lambda, "rho_clip": rho_clip, "c_clip": c_clip}
    fast = compute_advantages(*arguments, **settings_)
    # c_clip up to 3 lets the trace grow, so the tolerance is relative.
    torch.testing.assert_close(fast.double(), slow_advantages(*arguments, **settings_), rtol=1e-4, atol=1e-4)


def test_segments_do_not_see_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    numbers = [torch.randn(4, 6, generator=generator) for _ in range(4)]
    ends = torch.rand(4, 6, generator=generator) < 0.2
    bootstrap = torch.randn(4, generator=generator)
    settings_ = {"gamma": 0.97, "gae_lambda": 0.9, "rho_clip": 1.0, "c_clip": 1.0}
    arguments = (numbers[0], bootstrap, numbers[1], ends, ends.flip(1), numbers[2], numbers[3].exp())
    together = compute_advantages(*arguments, **settings_)
    for s in range(4):
        alone = compute_advantages(*(argument[s : s + 1] for argument in arguments), **settings_)
        assert torch.equal(alone[0], together[s])


def test_normalize_advantages_by_hand() -> None:
    # mean 3; unbiased variance of [1, 2, 3, 6] = (4 + 1 + 0 + 9) / 3 = 14 / 3
    normalized = normalize_advantages(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    std = math.sqrt(14.0 / 3.0)
    torch.testing.assert_close(normalized, torch.tensor([[-2.0 / std, -1.0 / std], [0.0, 3.0 / std]]))


def test_normalizing_equal_advantages_gives_zeros() -> None:
    assert normalize_advantages(torch.full((2, 3), 7.0)).tolist() == [[0.0] * 3] * 2
