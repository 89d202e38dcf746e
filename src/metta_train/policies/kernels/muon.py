"""A step of Muon for one matrix; see `training/muon.py`, where the formulas stand.

In bfloat16 the rounds multiply the whole matrix, in float32 matrices of its smaller side.
"""

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


@inline
def _direct(gradient, velocity, momentum, smallest_norm, direction) -> None:
    """Velocity <- its next, direction <- Nesterov's, of norm 1."""
    total = 0.0
    for i in range(direction.shape[0]):
        to, before, here = gradient[i], velocity[i], direction[i]
        part = np.float32(0)
        for j in range(here.size):
            after = momentum * before[j] + (np.float32(1) - momentum) * to[j]
            before[j] = after
            value = momentum * after + (np.float32(1) - momentum) * to[j]
            here[j] = value
            part += value * value
        total += part
    shrink = np.float32(1.0 / max(np.sqrt(total), smallest_norm))
    for i in range(direction.shape[0]):
        here = direction[i]
        for j in range(here.size):
            here[j] *= shrink


@inline
def _factor_of(gram, a, b, c, factor) -> None:
    """P = a I + b A + c A^2."""
    multiply(gram, gram, factor)
    _combine(b, gram, c, factor, factor)
    for i in range(gram.shape[0]):
        factor[i, i] += a


@kernel
def muon_in_small_rounds(weights, gradient, velocity, momentum, kept, scale, rounds, a, b, c, smallest_norm) -> None:
    """As `muon_in_tiles`, for float32 matrices of any size."""
    height, width = weights.shape
    direction, turned = np.empty((height, width), np.float32), np.empty((width, height), np.float32)
    _direct(gradient, velocity, momentum, smallest_norm, direction)
    _transpose(direction, turned)
    wide, tall = (turned, direction) if height > width else (direction, turned)
    size = wide.shape[0]
    gram, factor, product, other = (
        np.empty((size, size), np.float32),
        np.empty((size, size), np.float32),
        np.empty((size, size), np.float32),
        np.empty((size, size), np.float32),
    )
    multiply(wide, tall, gram)
    _factor_of(gram, a, b, c, factor)
    product[:] = factor
    for _ in range(rounds - 1):
        multiply(factor, gram, other)
        multiply(other, factor, gram)
        _factor_of(gram, a, b, c, factor)
        multiply(factor, product, other)
        product, other = other, product
    moved = np.empty((height, width), np.float32)
    if height > width:
        multiply(direction, product, moved)  # which is symmetric
    else:
        multiply(product, direction, moved)
    _combine(kept, weights, -scale, moved, weights)


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
    _direct(gradient, velocity, momentum, smallest_norm, direction)
    if tall:
        wide = np.empty((rows, columns), np.float32)
        _transpose(direction, wide)
    else:
        wide = direction
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
