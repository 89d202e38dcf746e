"""Which segments a minibatch holds: every one exactly once (uniform), or by the size of its advantages."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metta_train.experience.upload import upload

# Floor of a segment's priority, so that a segment without any advantage can still be drawn.
PRIORITY_FLOOR = 1e-6


class MinibatchDraw(NamedTuple):
    """The segments of one minibatch."""

    index: Tensor  # [m] int64, no repetition
    weights: Tensor  # [m] float32, importance weights; exactly 1 when uniform


def draw_minibatches(
    advantages: Tensor,
    minibatch_segments: int,
    *,
    prio_alpha: float,
    prio_beta: float,
    generator: torch.Generator,
) -> list[MinibatchDraw]:
    """The S / m minibatches of one update epoch, on the device of `advantages [S, T]`.

    `prio_alpha` 0 is a uniform permutation: each segment appears exactly once, with weight exactly 1. Otherwise
    minibatches are drawn by priority (`prioritized_minibatches`).

    Args:
        advantages: of the rollout, before any normalisation.
        minibatch_segments: m; divides S.
        prio_alpha: 0..1, exponent of the priorities.
        prio_beta: 0..1, exponent of the importance weights (`annealed_beta`).
        generator: on the CPU, so that draws do not depend on the device.
    """
    if prio_alpha == 0.0:
        return uniform_minibatches(
            advantages.shape[0], minibatch_segments, generator=generator, device=advantages.device
        )
    return prioritized_minibatches(
        advantages, minibatch_segments, prio_alpha=prio_alpha, prio_beta=prio_beta, generator=generator
    )


def uniform_minibatches(
    num_segments: int, minibatch_segments: int, *, generator: torch.Generator, device: torch.device
) -> list[MinibatchDraw]:
    """A random permutation of the segments, cut into minibatches."""
    assert num_segments % minibatch_segments == 0, f"{minibatch_segments} does not divide {num_segments} segments"
    permutation = upload(torch.randperm(num_segments, generator=generator), device)
    weights = torch.ones(minibatch_segments, device=device)
    return [MinibatchDraw(index, weights) for index in permutation.split(minibatch_segments)]


def prioritized_minibatches(
    advantages: Tensor, minibatch_segments: int, *, prio_alpha: float, prio_beta: float, generator: torch.Generator
) -> list[MinibatchDraw]:
    """S / m independent draws of m segments, without repetition inside a minibatch.

    Segment i is drawn in proportion to p_i = (m_i^alpha + floor) / sum_j (m_j^alpha + floor), where m_i is the sum of
    its |advantages|, and weighs (S p_i)^-beta (Schaul et al. 2016, https://arxiv.org/abs/1511.05952, section 3.4;
    not divided by the largest weight).

    Raises:
        FloatingPointError: an advantage is not finite.
    """
    num_segments = advantages.shape[0]
    assert num_segments % minibatch_segments == 0, f"{minibatch_segments} does not divide {num_segments} segments"
    # One transfer of S numbers for the whole update epoch; float64 so that probabilities add up to 1.
    magnitudes = advantages.detach().abs().sum(dim=1).cpu().double()
    not_finite = int((~magnitudes.isfinite()).sum())
    if not_finite:
        raise FloatingPointError(f"the advantages of {not_finite} of {num_segments} segments are not finite")
    priorities = magnitudes.pow(prio_alpha) + PRIORITY_FLOOR
    probabilities = priorities / priorities.sum()
    weights = (num_segments * probabilities).pow(-prio_beta).float()
    draws = []
    for _ in range(num_segments // minibatch_segments):
        index = torch.multinomial(probabilities, minibatch_segments, replacement=False, generator=generator)
        draws.append(MinibatchDraw(upload(index, advantages.device), upload(weights[index], advantages.device)))
    return draws


def annealed_beta(prio_beta0: float, prio_alpha: float, progress: float) -> float:
    """beta0 + (1 - beta0) * alpha * progress, at most 1; `progress` is the share of the run done, 0..1."""
    return min(1.0, prio_beta0 + (1.0 - prio_beta0) * prio_alpha * progress)
