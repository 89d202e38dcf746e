"""The first convolution over tokens, each of which stands for a number of an image that is mostly zeros."""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import kernel
from metta_train.policies.kernels.numbers import get, put, relu_of
from metta_train.specs.environment_spec import PADDING_LOCATION

PADDING = np.uint8(PADDING_LOCATION)


@kernel
def place_tokens(tokens, cells, first_channels, channel_offsets, scaled_values, board, places, values, ends) -> int:
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


@kernel
def _windows_over(side, kernel, stride):
    """[16, 2]: the first window of a side over each cell of it, and the end of its windows."""
    windows = np.empty((16, 2), np.uint32)
    for cell in range(16):
        windows[cell, 0] = max(0, (cell - kernel + stride) // stride)
        windows[cell, 1] = min(side, cell // stride + 1)
    return windows


@kernel
def convolve_places(places, values, ends, weight, bias, stride, relu, out) -> None:
    """out[n, y, x] <- bias + sum of value * weight[row - y stride, column - x stride, channel] over the row's places.

    Args:
        places: int32, see `place_tokens`.
        values: float32, see there.
        ends: int32 [N], see there.
        weight: float32 [k, k, C, O].
        bias: float32 [O].
        stride: of both directions.
        relu: whether negative results become 0.
        out: [N, height, width, O].
    """
    kernel, channels = weight.shape[0], weight.shape[2]
    num_rows, height, width, size = out.shape
    rows, columns = _windows_over(height, kernel, stride), _windows_over(width, kernel, stride)
    sums = np.empty((height * width, size), np.float32)  # of one row: they stay in the cache
    flat_weight, flat_sums, flat_out = weight.reshape(-1, size), sums.reshape(-1), out.reshape(num_rows, -1)
    first = 0
    for n in range(num_rows):
        for window in range(height * width):
            target = sums[window]
            for j in range(size):
                target[j] = bias[j]
        for place in range(first, ends[n]):
            row, column, channel = places[place] >> 20, (places[place] >> 16) & 15, places[place] & 0xFFFF
            value = values[place]
            for y in range(rows[row, 0], rows[row, 1]):
                for x in range(columns[column, 0], columns[column, 1]):
                    in_kernel = (row - y * stride) * kernel + column - x * stride
                    source = flat_weight[np.uint32(in_kernel * channels + channel)]
                    target = sums[np.uint32(y * width + x)]
                    for j in range(size):
                        target[j] += value * source[j]
        results = flat_out[n]
        if relu:
            for j in range(flat_sums.size):
                flat_sums[j] = relu_of(flat_sums[j])
        for j in range(flat_sums.size):
            put(results, j, flat_sums[j])
        first = ends[n]


@kernel
def through_places(places, values, ends, stride, relu, outputs, grad, grad_weight, grad_bias) -> None:
    """Adds what grad [N, height, width, O] of `convolve_places` says to grad_weight [k, k, C, O] and grad_bias [O]."""
    kernel, channels = grad_weight.shape[0], grad_weight.shape[2]
    num_rows, height, width, size = grad.shape
    rows, columns = _windows_over(height, kernel, stride), _windows_over(width, kernel, stride)
    sums = np.empty((height * width, size), np.float32)
    flat_weight = grad_weight.reshape(-1, size)
    flat_grad, flat_outputs = grad.reshape(num_rows, -1, size), outputs.reshape(num_rows, -1, size)
    first = 0
    for n in range(num_rows):
        for window in range(height * width):
            target, source, output = sums[window], flat_grad[n, window], flat_outputs[n, window]
            for j in range(size):
                value = np.float32(0) if relu and get(output, j) <= np.float32(0) else get(source, j)
                target[j] = value
                grad_bias[j] += value
        for place in range(first, ends[n]):
            row, column, channel = places[place] >> 20, (places[place] >> 16) & 15, places[place] & 0xFFFF
            value = values[place]
            for y in range(rows[row, 0], rows[row, 1]):
                for x in range(columns[column, 0], columns[column, 1]):
                    in_kernel = (row - y * stride) * kernel + column - x * stride
                    target = flat_weight[np.uint32(in_kernel * channels + channel)]
                    source = sums[np.uint32(y * width + x)]
                    for j in range(size):
                        target[j] += value * source[j]
        first = ends[n]
