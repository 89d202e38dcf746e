"""A step of Muon for one matrix, its products in bfloat16; see `training/muon.py`, where the formulas stand."""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import inline, kernel
from metta_train.policies.kernels.numbers import put
from metta_train.policies.kernels.products import end_of_products, multiply, pack_columns, pack_rows


@inline
def _round_all(matrix, out) -> None:
    for i in range(matrix.shape[0]):
        row, target = matrix[i], out[i]
        for j in range(row.size):
            put(target, j, row[j])


@inline
def _transpose(matrix, out) -> None:
    for first in range(0, matrix.shape[0], 16):
        end = min(first + 16, matrix.shape[0])
        for j in range(matrix.shape[1]):
            target = out[j, first:end]
            for i in range(target.size):
                target[i] = matrix[first + i, j]


@inline
def _combine(a, one, b, other, out) -> None:
    """Out <- a one + b other, which it may be one of."""
    for i in range(out.shape[0]):
        first, second, target = one[i], other[i], out[i]
        for j in range(target.size):
            target[j] = a * first[j] + b * second[j]


@kernel
def muon_in_tiles(weights, gradient, velocity, momentum, kept, scale, rounds, a, b, c, smallest_norm) -> None:
    """Weights <- kept weights - scale X, velocity <- its next.

    Args:
        weights: float32 [m, n], both multiples of `TILE`.
        gradient: likewise.
        velocity: likewise.
        momentum: mu.
        kept: 1 - lr decay.
        scale: of the update.
        rounds: how many.
        a: coefficient of X.
        b: of A X.
        c: of A^2 X.
        smallest_norm: a smaller one counts as this.
    """
    height, width = weights.shape
    tall = height > width
    rows, columns = min(height, width), max(height, width)
    direction = np.empty((height, width), np.float32)
    total = 0.0
    for i in range(height):
        to, before, here = gradient[i], velocity[i], direction[i]
        part = np.float32(0)
        for j in range(here.size):
            after = momentum * before[j] + (np.float32(1) - momentum) * to[j]
            before[j] = after
            value = momentum * after + (np.float32(1) - momentum) * to[j]
            here[j] = value
            part += value * value
        total += part
    if tall:
        wide = np.empty((rows, columns), np.float32)
        _transpose(direction, wide)
    else:
        wide = direction
    shrink = np.float32(1.0 / max(np.sqrt(total), smallest_norm))
    for i in range(rows):
        row = wide[i]
        for j in range(row.size):
            row[j] *= shrink
    left, right, turned = (
        np.empty((rows, columns), np.uint16),
        np.empty((rows // 2, columns), np.int32),
        np.empty((columns // 2, rows), np.int32),
    )
    gram, square, moved = (
        np.empty((rows, rows), np.float32),
        np.empty((rows, rows), np.float32),
        np.empty((rows, columns), np.float32),
    )
    factor, pairs = np.empty((rows, rows), np.uint16), np.empty((rows // 2, rows), np.int32)
    for _ in range(rounds):
        _round_all(wide, left)
        pack_columns(wide, 0, columns // 2, turned)
        multiply(left, turned, gram)
        _round_all(gram, factor)
        pack_rows(gram, 0, pairs)
        multiply(factor, pairs, square)
        _combine(b, gram, c, square, square)
        _round_all(square, factor)
        pack_rows(wide, 0, right)
        multiply(factor, right, moved)
        _combine(a, wide, np.float32(1), moved, wide)
    end_of_products(left)
    if tall:
        _transpose(wide, direction)
    _combine(kept, weights, -scale, direction, weights)
