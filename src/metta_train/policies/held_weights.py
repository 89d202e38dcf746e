"""Copies of weights in another type or order, made once while the weights do not move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from metta_train.policies.watched import is_recorded

# By what made it and the identities of the weights, which stand beside it so that no other tensor takes them over.
_Copies = dict[tuple[object, ...], tuple[tuple[Tensor, ...], Tensor]]

_copies: ContextVar[_Copies | None] = ContextVar("copies", default=None)


@contextmanager
def weights_held() -> Iterator[None]:
    """Inside, in this thread, weights do not move: `held` makes every copy once."""
    token = _copies.set({})
    try:
        yield
    finally:
        _copies.reset(token)


def held(make: Callable[..., Tensor], *weights: Tensor) -> Tensor:
    """`make(*weights)`, without a gradient; inside of `weights_held` perhaps that of an earlier call.

    Not in what is recorded: that is played again when the weights have moved.
    """
    copies = _copies.get()
    if copies is None or is_recorded():
        return make(*weights)
    key = (make, *map(id, weights))
    found = copies.get(key)
    if found is None:
        found = copies[key] = weights, make(*weights)
    return found[1]


def to_bfloat16(weight: Tensor) -> Tensor:
    """For `held`."""
    return weight.detach().to(torch.bfloat16)
