"""Recurrent state as a value: it goes into a policy and comes out; modules keep none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """The memory of B rows; rows come first in every tensor, so that segments can store and gather it.

    Attributes:
        tensors: one tensor `[B, ...]` per state variable, e.g. (hidden, cell), each `[B, layers, size]` for an LSTM;
            empty for a policy without memory.
    """

    tensors: tuple[Tensor, ...]

    def rows(self, index: Tensor | slice) -> RecurrentState:
        """The state of some rows."""
        return RecurrentState(tuple(t[index] for t in self.tensors))

    def zero_where(self, resets: Tensor) -> RecurrentState:
        """A copy in which the rows with `resets[B]` true are zero; the others are bit-identical."""
        return RecurrentState(tuple(t.masked_fill(resets.view(-1, *([1] * (t.dim() - 1))), 0.0) for t in self.tensors))

    def detach(self) -> RecurrentState:
        return RecurrentState(tuple(t.detach() for t in self.tensors))

    def to(self, device: torch.device) -> RecurrentState:
        return RecurrentState(tuple(t.to(device) for t in self.tensors))
