"""CUDA graphs: operations of fixed shapes, recorded once and played again by the device without Python.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metta_train.policies.watched import recorded

logger = logging.getLogger(__name__)

Operations = Callable[[], Sequence[Tensor]]
"""Reads tensors that stay where they are, and returns new ones."""

Recorder = Callable[[Operations, Sequence[torch.Generator]], Operations]
"""Gives back operations that read the same memory again and return the same tensors with new numbers in them, drawn
from the generators as if Python did it."""

WARM_UPS = 3  # kernels are chosen and workspaces allocated before the recording


def record_cuda_graph(operations: Operations, generators: Sequence[torch.Generator] = ()) -> Operations:
    """A `Recorder`: one launch in place of hundreds.

    Raises:
        RuntimeError: an operation waits for the device, or cannot be recorded.
    """
    states = [generator.get_state() for generator in generators]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), recorded():
        for _ in range(WARM_UPS):
            operations()
    torch.cuda.current_stream().wait_stream(side)
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph), recorded():
        outputs = operations()

    def replay() -> Sequence[Tensor]:
        graph.replay()
        return outputs

    return replay


class Recording:
    """A function of tensors whose shapes never change, recorded at its first call.

    What cannot be recorded is called as it is, after a warning.

    Args:
        name: of the function, for the warning.
        function: of the tensors, to tensors; follows from their shapes alone (`watched.recorded`).
        record: how.
        generators: what the function draws from.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Sequence[Tensor]],
        record: Recorder,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self._name = name
        self._function = function
        self._record = record
        self._generators = generators
        self._inputs: tuple[Tensor, ...] | None = None
        self._replay: Operations | None = None

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """The function's outputs, valid until the next call."""
        if self._inputs is None:
            own = self._inputs = tuple(tensor.clone() for tensor in inputs)
            try:
                self._replay = self._record(lambda: self._function(*own), self._generators)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                logger.warning("%s cannot be recorded and runs without a CUDA graph: %s", self._name, error)
        if self._replay is None:
            return self._function(*inputs)
        for own_input, tensor in zip(self._inputs, inputs, strict=True):
            own_input.copy_(tensor)
        return self._replay()
