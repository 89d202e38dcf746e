"""A recorder for machines without CUDA: torch traces the operations and plays them again, as a CUDA graph does.

As in a CUDA graph, Python runs once: numbers that it reads, decides on or computes are the same for ever after, and
what it reads from a tensor is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from metta_train.policies.watched import recorded
from metta_train.training.recording import Operations


def record_by_tracing(operations: Operations, generators: Sequence[torch.Generator] = ()) -> Operations:
    """A `Recorder`."""
    states = [generator.get_state() for generator in generators]
    with recorded():
        graph = make_fx(lambda: list(operations()))()
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)

    def replay() -> list[Tensor]:
        with torch.no_grad():
            return graph()

    return replay
