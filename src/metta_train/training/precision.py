"""The arithmetic of `trainer.precision`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Inside, networks compute as `precision` says: "fp32" as they are, "bf16" with products in bfloat16.

    Weights are cast at every use. autocast's cache of cast weights is one for all threads, and every thread that leaves
    its block empties it: with it, whether two uses of a weight add up their gradients in bfloat16 or in float32 would
    depend on which thread is faster.

    Args:
        precision: of the plan.
        device: of the networks.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
