"""A recorder for machines without CUDA: torch traces the operations and plays them again, as a CUDA graph does.

As in a CUDA graph, Python runs once: numbers that it reads, decides on or computes are the same for ever after, and
what it reads from a tensor is an error. Draws come from the generators anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from metta_train.policies.watched import recorded
from metta_train.training.recording import Operations

_exponential = Tensor.exponential_
_generators: list[torch.Generator] = []


@torch.library.custom_op("metta_train_tests::exponential", mutates_args=())
def _draw(like: Tensor, generator: int) -> Tensor:
    """A trace holds no generator, but the place of one in a list."""
    return _exponential(torch.empty_like(like), generator=_generators[generator])


def _traced_exponential(tensor: Tensor, *, generator: torch.Generator) -> Tensor:
    _generators.append(generator)
    return tensor.copy_(_draw(tensor, len(_generators) - 1))


def record_by_tracing(operations: Operations, generators: Sequence[torch.Generator] = ()) -> Operations:
    """A `Recorder`."""
    states = [generator.get_state() for generator in generators]
    try:
        with recorded(), patch.object(Tensor, "exponential_", _traced_exponential):
            graph = make_fx(lambda: list(operations()))()
    except RuntimeError as error:  # which `Recording` would take as a reason to go on without
        raise AssertionError("the operations cannot be traced") from error
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)

    def replay() -> list[Tensor]:
        with torch.no_grad():
            return graph()

    return replay
