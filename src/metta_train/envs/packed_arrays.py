"""Arrays one after the other in one block of memory, at the same places for everybody who knows their layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes; arrays start on cache lines

ArrayLayout = tuple[str, tuple[int, ...]]  # dtype and shape


def packed_bytes(layouts: Sequence[ArrayLayout]) -> int:
    """Size of the block that `packed_arrays` needs."""
    return sum(_aligned(layout) for layout in layouts)


def packed_arrays(memory: mmap | bytearray, layouts: Sequence[ArrayLayout]) -> list[NDArray[Any]]:
    """Views of `memory`, in the order of the layouts."""
    arrays = []
    offset = 0
    for dtype, shape in layouts:
        arrays.append(np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape))
        offset += _aligned((dtype, shape))
    return arrays


def _aligned(layout: ArrayLayout) -> int:
    dtype, shape = layout
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return -(-size // ALIGNMENT) * ALIGNMENT
