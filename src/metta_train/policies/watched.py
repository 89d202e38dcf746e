"""Who looks on while a network runs: fast paths of the CPU that torch does not see step aside then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_recording = ContextVar("recording", default=False)


def is_watched(*modules: nn.Module) -> bool:
    """Whether one of them has forward hooks, which only run when the module does, or torch exports the network."""
    if torch.compiler.is_compiling():
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def takes_cpu_kernels(inputs: Tensor, *modules: nn.Module) -> bool:
    """Whether `cpu_kernels.py` may do what these modules do to `inputs`."""
    return inputs.device.type == "cpu" and not is_recorded() and not is_watched(*modules)


@contextmanager
def recorded() -> Iterator[None]:
    """Operations inside are recorded and played again with other numbers: they follow from shapes alone.

    Nothing may read a number of a tensor, neither to decide what comes next nor for the shape of another tensor.
    """
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


def is_recorded() -> bool:
    """Whether this runs inside of `recorded`."""
    return _recording.get()
