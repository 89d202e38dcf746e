"""Numbers of the host on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting for what a GPU still has to do; on the CPU, the tensor itself.

    It may change while the copy is on its way to a GPU: it was copied into pinned memory, which torch keeps until the
    GPU has read it.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
