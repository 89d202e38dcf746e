"""The arithmetic of `trainer.precision`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def arithmetic(precision: str, device: torch.device, *, keeps_weights: bool = True) -> AbstractContextManager[object]:
    """Inside, networks compute as `precision` says: "fp32" as they are, "bf16" with products in bfloat16.

    Args:
        precision: of the plan.
        device: of the networks.
        keeps_weights: weights are cast once until the outermost such block ends, not at every use.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=keeps_weights)
