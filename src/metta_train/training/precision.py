"""The arithmetic of `trainer.precision`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

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


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Inside, numbers smaller than 1.2e-38 count as 0 in this thread: processors take a hundred times as long for them.

    Momentum of weights that a policy has stopped to use decays into them and stays there: with forage learned, gradient
    steps took twice as long (docs/benchmarks.md). Not for the whole process: NumPy warns when it sees it.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
