"""How far two tensors are apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def largest_difference(reference: Tensor, candidate: Tensor) -> float:
    """Largest |a - b| in float64; equal infinities and nan in the same places count as equal, else as inf."""
    if reference.shape != candidate.shape:
        return math.inf
    if reference.numel() == 0:
        return 0.0
    a, b = (tensor.detach().to("cpu", torch.float64) for tensor in (reference, candidate))
    difference = (a - b).abs()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, torch.zeros_like(difference), difference)
    largest = float(torch.nan_to_num(difference, nan=math.inf, posinf=math.inf).max())
    return largest


def roughly_equal(reference: Tensor, candidate: Tensor) -> bool:
    """Equal but for rounding: for asking whether a cause explains a difference, never for whether there is one."""
    if reference.shape != candidate.shape:
        return False
    a, b = (tensor.detach().to("cpu", torch.float64) for tensor in (reference, candidate))
    if not bool(torch.isfinite(a).all()) or not bool(torch.isfinite(b).all()):
        return largest_difference(a, b) == 0.0
    if a.numel() == 0:
        return True
    # Numbers that differ little among themselves must agree all the better.
    spread = float(a.max() - a.min())
    return bool(((a - b).abs() <= 1e-5 * a.abs() + 1e-5 * spread + 1e-9).all())
