"""How far an update moved the policy, and how well the values explain the returns."""

from __future__ import annotations

import torch
from torch import Tensor


def approx_kl(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """mean((ratio - 1) - log ratio), the k3 estimator of KL(old || new); 0 or more.

    Unbiased, with less variance than -log ratio: http://joschu.net/blog/kl-approx.html
    """
    log_ratio = log_probs - old_log_probs
    return (log_ratio.expm1() - log_ratio).mean()


def clip_fraction(log_probs: Tensor, old_log_probs: Tensor, clip_coef: float | Tensor) -> Tensor:
    """Share of the actions with |ratio - 1| > clip_coef."""
    return ((log_probs - old_log_probs).expm1().abs() > clip_coef).float().mean()


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R); 1 is perfect, 0 is no better than a constant, and 0 where the returns do not vary."""
    returns_variance = returns.var()
    share = 1.0 - (returns - values).var() / returns_variance
    # torch.where and not `if`: a branch on a device tensor would wait for the device.
    return torch.where(returns_variance > 0.0, share, torch.zeros_like(share))
