"""PPO losses by hand, their gradients, and accumulation over pieces."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metta_train.ppo.losses import clipped_policy_loss, clipped_value_loss, value_loss


def test_policy_loss_by_hand() -> None:
    # Ratios 1, 1.5, 0.5, 1.5 with advantages 2, 2, -2, -2 and clip 0.2: max(-A * ratio, -A * clipped)
    #   max(-2, -2) = -2;  max(-3, -2.4) = -2.4;  max(1, 1.6) = 1.6;  max(3, 2.4) = 3      mean = 0.2 / 4 = 0.05
    log_probs = torch.tensor([[1.0, 1.5], [0.5, 1.5]]).log()
    advantages = torch.tensor([[2.0, 2.0], [-2.0, -2.0]])
    loss = clipped_policy_loss(log_probs, torch.zeros(2, 2), advantages, 0.2)
    assert loss.item() == pytest.approx(0.05)


def test_policy_gradient_is_cut_where_the_clip_wins() -> None:
    log_probs = torch.tensor([[1.0, 1.5, 0.5, 1.5]]).log().requires_grad_()
    advantages = torch.tensor([[2.0, 2.0, -2.0, -2.0]])
    clipped_policy_loss(log_probs, torch.zeros(1, 4), advantages, 0.2).backward()
    assert log_probs.grad is not None
    # d(-A * ratio) / d log_prob = -A * ratio, over 4 elements; zero where the constant branch is the larger one.
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-2.0 / 4, 0.0, 0.0, 3.0 / 4]]))


def test_value_loss_by_hand() -> None:
    # v 1, 3, old 0, 2.95, targets 2, 2, clip 0.1:
    #   (1 - 2)^2 = 1 against (0 + 0.1 - 2)^2 = 3.61 -> 3.61;  (3 - 2)^2 = 1 against (2.95 + 0.05 - 2)^2 = 1 -> 1
    #   0.5 * (3.61 + 1) / 2 = 1.1525
    values, old_values = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 2.95]])
    returns = torch.tensor([[2.0, 2.0]])
    assert clipped_value_loss(values, old_values, returns, 0.1).item() == pytest.approx(1.1525)
    # Unclipped: 0.5 * (1 + 1) / 2 = 0.5
    assert value_loss(values, returns).item() == pytest.approx(0.5)


def test_value_clip_of_zero_trains_only_values_that_got_worse() -> None:
    # old 1, target 2. v = 1.5 is better than old: the constant old error wins, no gradient. v = 0 is worse:
    # d 0.5 * (v - R)^2 / dv = v - R = -2, over 2 elements.
    values = torch.tensor([[1.5, 0.0]], requires_grad=True)
    clipped_value_loss(values, torch.ones(1, 2), torch.full((1, 2), 2.0), 0.0).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, -1.0]]


def test_an_infinite_value_clip_is_no_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old_values, returns = (torch.randn(3, 4, generator=generator) for _ in range(3))
    torch.testing.assert_close(clipped_value_loss(values, old_values, returns, math.inf), value_loss(values, returns))


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 5), (6,)])
@pytest.mark.parametrize(
    "loss_of",
    [
        lambda x, a, b: clipped_policy_loss(x, a, b, 0.2),
        lambda x, a, b: clipped_value_loss(x, a, b, 0.2),
        lambda x, a, _: value_loss(x, a),
    ],
)
def test_pieces_weighted_by_their_share_give_the_whole_gradient(
    sizes: tuple[int, ...], loss_of: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    generator = torch.Generator().manual_seed(2)
    x, a, b = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    x.requires_grad_()
    whole = loss_of(x, a, b)
    (expected,) = torch.autograd.grad(whole, x)
    total = 0.0
    for piece_x, piece_a, piece_b in zip(x.split(sizes), a.split(sizes), b.split(sizes), strict=True):
        piece = loss_of(piece_x, piece_a, piece_b) * (piece_x.numel() / x.numel())
        piece.backward()
        total += piece.item()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
    assert total == pytest.approx(whole.item())
