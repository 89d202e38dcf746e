"""Loops over numbers for the CPU, compiled by Numba at their first call and kept on disk for the next process.

torch's own operations each read and write the whole tensor; these do in one pass what a layer needs after its matrix
product. Every kernel has a slow twin in torch that tests compare it with. bfloat16 arrays come as their 16 bits
(`bits_of`). NaN and infinity pass through as they do in torch, so that whoever looks for them finds them.
docs/benchmarks.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Not "nnan" and "ninf": the guard against non-finite numbers must see them.
_MATH = {"contract", "arcp", "nsz", "reassoc"}
PADDING = np.uint8(255)


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(function, fastmath=_MATH, error_model="numpy", nogil=True, cache=True)


def _inline(function: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(function, fastmath=_MATH, error_model="numpy", inline="always")


def bits_of(tensor: Tensor) -> NDArray[np.uint16]:
    """The memory of a bfloat16 tensor as 16-bit numbers."""
    return tensor.view(torch.uint16).numpy()


@_inline
def _to_float(bits):  # noqa: ANN001, ANN202
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_inline
def _to_bits(value):  # noqa: ANN001, ANN202
    """Rounds to nearest, ties to even."""
    word = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(word >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(word + np.uint32(np.uint32(0x7FFF) + odd)) >> np.uint32(16))


@_inline
def _tanh(value):  # noqa: ANN001, ANN202
    """A quotient of polynomials, x P(x^2) / Q(x^2), fitted to tanh on [-9, 9]; error at most 4e-7.

    The coefficients are those of the rational minimax fit that Eigen and XLA use for float32.
    """
    limit = np.float32(7.99881172180175781)
    x = -limit if value < -limit else value
    x = limit if x > limit else x
    x2 = x * x
    p = np.float32(-2.76076847742355e-16)
    p = p * x2 + np.float32(2.00018790482477e-13)
    p = p * x2 + np.float32(-8.60467152213735e-11)
    p = p * x2 + np.float32(5.12229709037114e-08)
    p = p * x2 + np.float32(1.48572235717979e-05)
    p = p * x2 + np.float32(6.37261928875436e-04)
    p = p * x2 + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * x2 + np.float32(1.18534705686654e-04)
    q = q * x2 + np.float32(2.26843463243900e-03)
    q = q * x2 + np.float32(4.89352518554385e-03)
    return x * p / q


@_kernel
def tanh_of_sum(sums, bias) -> None:  # noqa: ANN001
    """sums[n, j] <- tanh(sums[n, j] + bias[j]); float32."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            row[j] = _tanh(row[j] + bias[j])


@_kernel
def tanh_of_sum_bits(sums, bias) -> None:  # noqa: ANN001
    """The same for bfloat16 sums; the bias is float32, and only the result is rounded."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            row[j] = _to_bits(_tanh(_to_float(row[j]) + bias[j]))


@_kernel
def relu_of_sum(sums, bias) -> None:  # noqa: ANN001
    """sums[n, j] <- max(0, sums[n, j] + bias[j]); float32."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            value = row[j] + bias[j]
            row[j] = np.float32(0) if value < np.float32(0) else value


@_kernel
def relu_of_sum_bits(sums, bias) -> None:  # noqa: ANN001
    """The same for bfloat16 sums and a float32 bias."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            value = _to_float(row[j]) + bias[j]
            row[j] = _to_bits(np.float32(0) if value < np.float32(0) else value)


@_kernel
def through_tanh(grad, outputs, grad_sums, grad_bias) -> None:  # noqa: ANN001
    """grad_sums <- grad (1 - outputs^2), grad_bias += its sum over rows; float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            value = grad_row[j] * (np.float32(1) - output_row[j] * output_row[j])
            sum_row[j] = value
            grad_bias[j] += value


@_kernel
def through_tanh_bits(grad, outputs, grad_sums, grad_bias) -> None:  # noqa: ANN001
    """The same in bfloat16; grad_bias is float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            output = _to_float(output_row[j])
            value = _to_float(grad_row[j]) * (np.float32(1) - output * output)
            sum_row[j] = _to_bits(value)
            grad_bias[j] += value


@_kernel
def through_relu(grad, outputs, grad_sums, grad_bias) -> None:  # noqa: ANN001
    """grad_sums <- grad where outputs > 0, else 0; grad_bias += its sum over rows; float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            value = np.float32(0) if output_row[j] <= np.float32(0) else grad_row[j]
            sum_row[j] = value
            grad_bias[j] += value


@_kernel
def through_relu_bits(grad, outputs, grad_sums, grad_bias) -> None:  # noqa: ANN001
    """The same in bfloat16; grad_bias is float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            value = np.float32(0) if _to_float(output_row[j]) <= np.float32(0) else _to_float(grad_row[j])
            sum_row[j] = _to_bits(value)
            grad_bias[j] += value


@_kernel
def weighted_sums(inputs, weight, bias, out) -> None:  # noqa: ANN001
    """out[n] <- bias + sum over j of inputs[n, j] weight[j]; float32."""
    for n in range(inputs.shape[0]):
        row = inputs[n]
        total = np.float32(0)
        for j in range(row.size):
            total += row[j] * weight[j]
        out[n] = total + bias


@_kernel
def weighted_sums_bits(inputs, weight, bias, out) -> None:  # noqa: ANN001
    """The same for bfloat16 inputs; everything else is float32."""
    for n in range(inputs.shape[0]):
        row = inputs[n]
        total = np.float32(0)
        for j in range(row.size):
            total += _to_float(row[j]) * weight[j]
        out[n] = total + bias


@_kernel
def through_weighted_sums(grad, inputs, weight, grad_inputs, grad_weight) -> None:  # noqa: ANN001
    """grad_inputs[n, j] <- grad[n] weight[j], grad_weight[j] += sum over n of grad[n] inputs[n, j]; float32."""
    for n in range(inputs.shape[0]):
        row, target, slope = inputs[n], grad_inputs[n], grad[n]
        for j in range(row.size):
            target[j] = slope * weight[j]
            grad_weight[j] += slope * row[j]


@_kernel
def through_weighted_sums_bits(grad, inputs, weight, grad_inputs, grad_weight) -> None:  # noqa: ANN001
    """The same for bfloat16 inputs and grad_inputs."""
    for n in range(inputs.shape[0]):
        row, target, slope = inputs[n], grad_inputs[n], grad[n]
        for j in range(row.size):
            target[j] = _to_bits(slope * weight[j])
            grad_weight[j] += slope * _to_float(row[j])


@_kernel
def place_tokens(tokens, cells, first_channels, channel_offsets, scaled_values, board, places, values, ends) -> int:  # noqa: ANN001
    """The tokens that a box would show, row after row.

    Args:
        tokens: uint8 [N, M, 3].
        cells: uint8 [256], a location's cell (row << 4 | column); 255 for a location outside of the window.
        first_channels: int32 [65536] by feature * 256 + value; -1 for a token that is to be ignored.
        channel_offsets: int32 [65536], the channel's distance from the feature's first.
        scaled_values: float32 [65536].
        board: int32 [256 * channels], smaller than 0 everywhere.
        places: int32 [at least N * M], filled with cell << 16 | channel.
        values: float32 of the same size, filled.
        ends: int32 [N], filled with the end of each row's places.

    Returns:
        How many tokens were ignored; padding is not counted.
    """
    num_rows, num_tokens, _ = tokens.shape
    channels = board.size // 256
    ignored = 0
    count = 0
    for n in range(num_rows):
        # The last token of a (cell, feature) leaves its number on the board. Numbers differ from row to row.
        for m in range(num_tokens):
            location = tokens[n, m, 0]
            if location == PADDING:
                continue
            first = first_channels[np.int32(tokens[n, m, 1]) * 256 + tokens[n, m, 2]]
            if cells[location] == PADDING or first < 0:
                ignored += 1
            else:
                board[np.int32(cells[location]) * channels + first] = n * num_tokens + m
        for m in range(num_tokens):
            location = tokens[n, m, 0]
            if location == PADDING or cells[location] == PADDING:
                continue
            kind = np.int32(tokens[n, m, 1]) * 256 + tokens[n, m, 2]
            first = first_channels[kind]
            cell = np.int32(cells[location])
            if first >= 0 and board[cell * channels + first] == n * num_tokens + m:
                places[count] = cell << 16 | (first + channel_offsets[kind])
                values[count] = scaled_values[kind]
                count += 1
        ends[n] = count
    return ignored


@_inline
def _sum_places(places, values, first, end, weight, bias, stride, sums):  # noqa: ANN001, ANN202
    """The convolution of one row; sums [height, width, O] stays in the cache."""
    kernel = weight.shape[0]
    height, width, size = sums.shape
    for y in range(height):
        for x in range(width):
            target = sums[y, x]
            for j in range(size):
                target[j] = bias[j]
    for place in range(first, end):
        row, column, channel = places[place] >> 20, (places[place] >> 16) & 15, places[place] & 0xFFFF
        value = values[place]
        for y in range(max(0, (row - kernel + stride) // stride), min(height, row // stride + 1)):
            for x in range(max(0, (column - kernel + stride) // stride), min(width, column // stride + 1)):
                source = weight[row - y * stride, column - x * stride, channel]
                target = sums[y, x]
                for j in range(size):
                    target[j] += value * source[j]


@_kernel
def convolve_places(places, values, ends, weight, bias, stride, relu, out) -> None:  # noqa: ANN001
    """out[n, y, x] <- bias + sum of value * weight[row - y stride, column - x stride, channel] over the row's places.

    Args:
        places: int32, see `place_tokens`.
        values: float32, see there.
        ends: int32 [N], see there.
        weight: float32 [k, k, C, O].
        bias: float32 [O].
        stride: of both directions.
        relu: whether negative results become 0.
        out: float32 [N, height, width, O].
    """
    sums = np.empty(out.shape[1:], np.float32)
    flat, flat_out = sums.reshape(-1), out.reshape(out.shape[0], -1)
    first = 0
    for n in range(out.shape[0]):
        _sum_places(places, values, first, ends[n], weight, bias, stride, sums)
        target = flat_out[n]
        for j in range(flat.size):
            target[j] = np.float32(0) if relu and flat[j] < np.float32(0) else flat[j]
        first = ends[n]


@_kernel
def convolve_places_bits(places, values, ends, weight, bias, stride, relu, out) -> None:  # noqa: ANN001
    """The same, rounded to bfloat16 at the end."""
    sums = np.empty(out.shape[1:], np.float32)
    flat, flat_out = sums.reshape(-1), out.reshape(out.shape[0], -1)
    first = 0
    for n in range(out.shape[0]):
        _sum_places(places, values, first, ends[n], weight, bias, stride, sums)
        target = flat_out[n]
        for j in range(flat.size):
            target[j] = _to_bits(np.float32(0) if relu and flat[j] < np.float32(0) else flat[j])
        first = ends[n]


@_inline
def _spread_places(places, values, first, end, stride, grad, grad_weight):  # noqa: ANN001, ANN202
    """What one row's grad [height, width, O] adds to grad_weight."""
    kernel = grad_weight.shape[0]
    height, width, size = grad.shape
    for place in range(first, end):
        row, column, channel = places[place] >> 20, (places[place] >> 16) & 15, places[place] & 0xFFFF
        value = values[place]
        for y in range(max(0, (row - kernel + stride) // stride), min(height, row // stride + 1)):
            for x in range(max(0, (column - kernel + stride) // stride), min(width, column // stride + 1)):
                target = grad_weight[row - y * stride, column - x * stride, channel]
                source = grad[y, x]
                for j in range(size):
                    target[j] += value * source[j]


@_kernel
def through_places(places, values, ends, stride, relu, outputs, grad, grad_weight, grad_bias) -> None:  # noqa: ANN001
    """Adds what grad [N, height, width, O] of `convolve_places` says to grad_weight [k, k, C, O] and grad_bias [O]."""
    height, width, size = grad.shape[1:]
    sums = np.empty((height, width, size), np.float32)
    first = 0
    for n in range(grad.shape[0]):
        for y in range(height):
            for x in range(width):
                target, source, output = sums[y, x], grad[n, y, x], outputs[n, y, x]
                for j in range(size):
                    value = np.float32(0) if relu and output[j] <= np.float32(0) else source[j]
                    target[j] = value
                    grad_bias[j] += value
        _spread_places(places, values, first, ends[n], stride, sums, grad_weight)
        first = ends[n]


@_kernel
def through_places_bits(places, values, ends, stride, relu, outputs, grad, grad_weight, grad_bias) -> None:  # noqa: ANN001
    """The same for a bfloat16 grad of `convolve_places_bits`."""
    height, width, size = grad.shape[1:]
    sums = np.empty((height, width, size), np.float32)
    first = 0
    for n in range(grad.shape[0]):
        for y in range(height):
            for x in range(width):
                target, source, output = sums[y, x], grad[n, y, x], outputs[n, y, x]
                for j in range(size):
                    value = np.float32(0) if relu and _to_float(output[j]) <= np.float32(0) else _to_float(source[j])
                    target[j] = value
                    grad_bias[j] += value
        _spread_places(places, values, first, ends[n], stride, sums, grad_weight)
        first = ends[n]
