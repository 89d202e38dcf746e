"""Diagnostics by hand."""

from __future__ import annotations

import math

import pytest
import torch

from metta_train.ppo.diagnostics import approx_kl, clip_fraction, explained_variance


def test_approx_kl_by_hand() -> None:
    # Ratios 1 and 2: ((1 - 1 - 0) + (2 - 1 - ln 2)) / 2
    log_probs = torch.tensor([[1.0, 2.0]]).log()
    assert approx_kl(log_probs, torch.zeros(1, 2)).item() == pytest.approx((1.0 - math.log(2.0)) / 2.0)


def test_approx_kl_of_equal_policies_is_exactly_zero_and_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(64, 8, generator=generator)
    assert approx_kl(log_probs, log_probs).item() == 0.0
    assert approx_kl(log_probs, log_probs + 1e-4 * torch.randn(64, 8, generator=generator)).item() >= 0.0


def test_approx_kl_estimates_the_divergence() -> None:
    # Sampling from the old policy [0.5, 0.5] exactly once each gives the exact expectation:
    # KL(old || new) with new = [0.25, 0.75] is 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75).
    old = torch.tensor([[0.5, 0.5]]).log()
    new = torch.tensor([[0.25, 0.75]]).log()
    assert approx_kl(new, old).item() == pytest.approx(0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0), rel=1e-5)


def test_clip_fraction_counts_both_sides() -> None:
    # Ratios 1, 1.05, 1.5, 0.5 with clip 0.1: the last two are outside.
    log_probs = torch.tensor([[1.0, 1.05], [1.5, 0.5]]).log()
    assert clip_fraction(log_probs, torch.zeros(2, 2), 0.1).item() == 0.5


def test_explained_variance_by_hand() -> None:
    # Returns [0, 2, 4]: unbiased variance 4. Errors [1, 0, -1] for values [-1, 2, 5]: variance 1. 1 - 1 / 4 = 0.75
    returns = torch.tensor([[0.0, 2.0, 4.0]])
    assert explained_variance(torch.tensor([[-1.0, 2.0, 5.0]]), returns).item() == pytest.approx(0.75)
    assert explained_variance(returns, returns).item() == 1.0
    # A constant offset does not count.
    assert explained_variance(returns + 3.0, returns).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros(1, 3), returns).item() == pytest.approx(0.0)


def test_explained_variance_of_constant_returns_is_zero() -> None:
    assert explained_variance(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 3.0]])).item() == 0.0
