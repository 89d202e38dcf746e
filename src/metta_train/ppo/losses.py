"""The clipped losses of PPO (Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

Every loss is the mean over all elements of its arguments. A minibatch may therefore be split into pieces: the sum over
the pieces of `piece.numel() / minibatch.numel() * loss(piece)` has the value and the gradient of the whole, as long as
the advantages are normalised over the whole minibatch before it is split.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_coef: float | Tensor
) -> Tensor:
    """Mean of max(-A * ratio, -A * clip(ratio, 1 - clip_coef, 1 + clip_coef)), ratio = exp(log_probs - old_log_probs).

    Args:
        log_probs: `[B, T]` of the stored actions under the present weights; the gradient flows through it.
        old_log_probs: `[B, T]` under the weights that acted.
        advantages: `[B, T]`, normalised and weighted already.
        clip_coef: above 0.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped_ratio = _clamp(ratio, 1.0 - clip_coef, 1.0 + clip_coef)
    return torch.maximum(-advantages * ratio, -advantages * clipped_ratio).mean()


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, vf_clip_coef: float | Tensor) -> Tensor:
    """0.5 * mean max((v - R)^2, (v_old + clip(v - v_old, -vf_clip_coef, vf_clip_coef) - R)^2).

    Args:
        values: `[B, T]` under the present weights; the gradient flows through it.
        old_values: `[B, T]` under the weights that acted.
        returns: `[B, T]` targets.
        vf_clip_coef: 0 or more, in units of value. At 0 only values that are worse than the old one get a gradient.
    """
    clipped_values = old_values + _clamp(values - old_values, -vf_clip_coef, vf_clip_coef)
    return 0.5 * torch.maximum((values - returns).square(), (clipped_values - returns).square()).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """0.5 * mean (v - R)^2 over `[B, T]`."""
    return 0.5 * (values - returns).square().mean()


def _clamp(tensor: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    return tensor.clamp(low, high)  # pyright: ignore[reportCallIssue, reportArgumentType]  # its stub knows no union
