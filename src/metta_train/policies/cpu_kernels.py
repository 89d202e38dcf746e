"""Loops over numbers for the CPU, compiled by Numba at their first call and kept on disk for the next process.

torch's own operations each read and write the whole tensor; these do in one pass what a layer needs after its matrix
product. Every kernel has a slow twin in torch that tests compare it with. Tensors come as `numbers_of` gives them: a
bfloat16 one as its 16 bits, which a kernel reads and rounds; between reading and rounding everything is float32. NaN
and infinity pass through as they do in torch, so that whoever looks for them finds them. docs/benchmarks.md has the
measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from metta_train.policies.kernel_cache import KernelCache
from metta_train.specs.environment_spec import PADDING_LOCATION

# Not "nnan" and "ninf": the guard against non-finite numbers must see them.
_MATH = {"contract", "arcp", "nsz", "reassoc"}
PADDING = np.uint8(PADDING_LOCATION)


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Any = numba.njit(function, fastmath=_MATH, error_model="numpy", nogil=True)
    compiled._cache = KernelCache(function)  # in the place of the one that cache=True makes
    return compiled


def _inline(function: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(function, fastmath=_MATH, error_model="numpy", inline="always")


def numbers_of(tensor: Tensor) -> NDArray[np.float32] | NDArray[np.uint16]:
    """The memory of a float32 tensor, or that of a bfloat16 tensor as 16-bit numbers."""
    tensor = tensor.detach()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _get(array: Any, index: int) -> float:  # for Numba alone, see _compiled_get
    raise NotImplementedError


def _put(array: Any, index: int, value: Any) -> None:  # for Numba alone, see _compiled_put
    raise NotImplementedError


@overload(_get, jit_options={"fastmath": _MATH})
def _compiled_get(array, index):
    """array[index] as float32."""
    if array.dtype == types.uint16:
        return lambda array, index: np.uint32(np.uint32(array[index]) << np.uint32(16)).view(np.float32)
    return lambda array, index: array[index]


@overload(_put, jit_options={"fastmath": _MATH})
def _compiled_put(array, index, value):
    """array[index] <- value, rounded to nearest, ties to even."""
    if array.dtype == types.uint16:

        def put_bits(array, index, value) -> None:
            word = np.float32(value).view(np.uint32)
            odd = np.uint32(np.uint32(word >> np.uint32(16)) & np.uint32(1))
            array[index] = np.uint16(np.uint32(word + np.uint32(np.uint32(0x7FFF) + odd)) >> np.uint32(16))

        return put_bits

    def put(array, index, value) -> None:
        array[index] = value

    return put


@_inline
def _tanh(value):
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


@_inline
def _relu(value):
    # One variable that keeps or loses its value: Numba makes vector code of this, not of an expression with two ends.
    value = value if not value < np.float32(0) else np.float32(0)
    return value


@_kernel
def tanh_of_sum(sums, bias) -> None:
    """sums[n, j] <- tanh(sums[n, j] + bias[j]); the bias is float32."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            _put(row, j, _tanh(_get(row, j) + bias[j]))


@_kernel
def relu_of_sum(sums, bias) -> None:
    """sums[n, j] <- max(0, sums[n, j] + bias[j]); the bias is float32."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            _put(row, j, _relu(_get(row, j) + bias[j]))


@_kernel
def through_tanh(grad, outputs, grad_sums, grad_bias) -> None:
    """grad_sums <- grad (1 - outputs^2), grad_bias += its sum over rows, in float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            output = _get(output_row, j)
            value = _get(grad_row, j) * (np.float32(1) - output * output)
            _put(sum_row, j, value)
            grad_bias[j] += value


@_kernel
def through_relu(grad, outputs, grad_sums, grad_bias) -> None:
    """grad_sums <- grad where outputs > 0, else 0; grad_bias += its sum over rows, in float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            value = np.float32(0) if _get(output_row, j) <= np.float32(0) else _get(grad_row, j)
            _put(sum_row, j, value)
            grad_bias[j] += value


@_kernel
def weighted_sums(inputs, weight, bias, out) -> None:
    """out[n] <- bias + sum over j of inputs[n, j] weight[j]; all but the inputs are float32."""
    for n in range(inputs.shape[0]):
        row = inputs[n]
        total = np.float32(0)
        for j in range(row.size):
            total += _get(row, j) * weight[j]
        out[n] = total + bias


@_kernel
def through_weighted_sums(grad, inputs, weight, grad_inputs, grad_weight) -> None:
    """grad_inputs[n, j] <- grad[n] weight[j], grad_weight[j] += sum over n of grad[n] inputs[n, j]."""
    for n in range(inputs.shape[0]):
        row, target, slope = inputs[n], grad_inputs[n], grad[n]
        for j in range(row.size):
            _put(target, j, slope * weight[j])
            grad_weight[j] += slope * _get(row, j)


@_kernel
def value_of_sums(relu, sums, bias, weight, value_bias, out) -> None:
    """Sums <- relu or tanh of (sums + bias), out[n] <- value_bias + sum over j of sums[n, j] weight[j]."""
    for n in range(sums.shape[0]):
        row = sums[n]
        if relu:
            for j in range(row.size):
                _put(row, j, _relu(_get(row, j) + bias[j]))
        else:
            for j in range(row.size):
                _put(row, j, _tanh(_get(row, j) + bias[j]))
        total = np.float32(0)
        for j in range(row.size):
            total += _get(row, j) * weight[j]
        out[n] = total + value_bias


@_kernel
def through_value_of_sums(relu, grad, outputs, weight, grad_sums, grad_bias, grad_weight) -> None:
    """The way back: grad_sums filled, grad_bias and grad_weight added to; `outputs` are the sums of the way there."""
    for n in range(outputs.shape[0]):
        output_row, sum_row, slope = outputs[n], grad_sums[n], grad[n]
        if relu:
            for j in range(output_row.size):
                output = _get(output_row, j)
                value = np.float32(0) if output <= np.float32(0) else slope * weight[j]
                _put(sum_row, j, value)
                grad_bias[j] += value
                grad_weight[j] += slope * output
        else:
            for j in range(output_row.size):
                output = _get(output_row, j)
                value = slope * weight[j] * (np.float32(1) - output * output)
                _put(sum_row, j, value)
                grad_bias[j] += value
                grad_weight[j] += slope * output


@_kernel
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


@_kernel
def _windows_over(side, kernel, stride):
    """[16, 2]: the first window of a side over each cell of it, and the end of its windows."""
    windows = np.empty((16, 2), np.uint32)
    for cell in range(16):
        windows[cell, 0] = max(0, (cell - kernel + stride) // stride)
        windows[cell, 1] = min(side, cell // stride + 1)
    return windows


@_kernel
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
    kernel = weight.shape[0]
    num_rows, height, width, size = out.shape
    rows, columns = _windows_over(height, kernel, stride), _windows_over(width, kernel, stride)
    sums = np.empty((height, width, size), np.float32)  # of one row: they stay in the cache
    flat_sums, flat_out = sums.reshape(-1), out.reshape(num_rows, -1)
    first = 0
    for n in range(num_rows):
        for y in range(height):
            for x in range(width):
                target = sums[y, x]
                for j in range(size):
                    target[j] = bias[j]
        for place in range(first, ends[n]):
            row, column, channel = places[place] >> 20, (places[place] >> 16) & 15, places[place] & 0xFFFF
            value = values[place]
            for y in range(rows[row, 0], rows[row, 1]):
                for x in range(columns[column, 0], columns[column, 1]):
                    source = weight[row - y * stride, column - x * stride, channel]
                    target = sums[y, x]
                    for j in range(size):
                        target[j] += value * source[j]
        results = flat_out[n]
        if relu:
            for j in range(flat_sums.size):
                flat_sums[j] = _relu(flat_sums[j])
        for j in range(flat_sums.size):
            _put(results, j, flat_sums[j])
        first = ends[n]


@_kernel
def through_places(places, values, ends, stride, relu, outputs, grad, grad_weight, grad_bias) -> None:
    """Adds what grad [N, height, width, O] of `convolve_places` says to grad_weight [k, k, C, O] and grad_bias [O]."""
    kernel = grad_weight.shape[0]
    num_rows, height, width, size = grad.shape
    rows, columns = _windows_over(height, kernel, stride), _windows_over(width, kernel, stride)
    sums = np.empty((height, width, size), np.float32)
    first = 0
    for n in range(num_rows):
        for y in range(height):
            for x in range(width):
                target, source, output = sums[y, x], grad[n, y, x], outputs[n, y, x]
                for j in range(size):
                    value = np.float32(0) if relu and _get(output, j) <= np.float32(0) else _get(source, j)
                    target[j] = value
                    grad_bias[j] += value
        for place in range(first, ends[n]):
            row, column, channel = places[place] >> 20, (places[place] >> 16) & 15, places[place] & 0xFFFF
            value = values[place]
            for y in range(rows[row, 0], rows[row, 1]):
                for x in range(columns[column, 0], columns[column, 1]):
                    target = grad_weight[row - y * stride, column - x * stride, channel]
                    source = sums[y, x]
                    for j in range(size):
                        target[j] += value * source[j]
        first = ends[n]


@_inline
def _sigmoid(value):
    return np.float32(0.5) * _tanh(np.float32(0.5) * value) + np.float32(0.5)


@_inline
def _copy_unless(zeroed, source, target) -> None:
    if zeroed:
        for j in range(target.size):
            target[j] = np.float32(0)
    else:
        for j in range(target.size):
            target[j] = source[j]


@_kernel
def open_memory(resets, first, memory) -> None:
    """memory[:, 0] <- first [B, H], zeros for rows that reset at step 0; resets bool [B, T], memory [B, T, H]."""
    for b in range(resets.shape[0]):
        _copy_unless(resets[b, 0], first[b], memory[b, 0])


@_kernel
def lstm_step(step, resets, bias, gates, hidden, cells, tanh_cells, outputs, last_cells) -> None:
    """What follows the matrix products in one step of one LSTM layer.

    Args:
        step: t.
        resets: bool [B, T].
        bias: [4 H].
        gates: [B, T, 4 H], at t the sums without bias, which become the gates i, f, g, o.
        hidden: [B, T, H]; t + 1 is filled, with zeros for rows that reset there.
        cells: [B, T, H], at t the cells before the step; t + 1 is filled like `hidden`.
        tanh_cells: [B, T, H], t is filled.
        outputs: [B, T, H], t is filled.
        last_cells: [B, H], filled by the last step.
    """
    num_rows, num_steps, size = outputs.shape
    # Slices, because Numba makes vector code of loops that begin at 0.
    bias_both, bias_candidate, bias_leaving = bias[: 2 * size], bias[2 * size : 3 * size], bias[3 * size :]
    for b in range(num_rows):
        row, before, cell, output = gates[b, step], cells[b, step], tanh_cells[b, step], outputs[b, step]
        both, candidate, leaving = row[: 2 * size], row[2 * size : 3 * size], row[3 * size :]
        for j in range(both.size):
            both[j] = _sigmoid(both[j] + bias_both[j])
        for j in range(candidate.size):
            candidate[j] = _tanh(candidate[j] + bias_candidate[j])
        for j in range(leaving.size):
            leaving[j] = _sigmoid(leaving[j] + bias_leaving[j])
        entering, forgetting = both[:size], both[size:]
        for j in range(cell.size):
            cell[j] = forgetting[j] * before[j] + entering[j] * candidate[j]
        if step + 1 < num_steps:
            _copy_unless(resets[b, step + 1], cell, cells[b, step + 1])
        else:
            _copy_unless(False, cell, last_cells[b])
        for j in range(cell.size):
            cell[j] = _tanh(cell[j])
            output[j] = leaving[j] * cell[j]
        if step + 1 < num_steps:
            _copy_unless(resets[b, step + 1], output, hidden[b, step + 1])


@_kernel
def lstm_operands(layer, resets, inputs, hidden, out) -> None:
    """out[b] <- inputs[b] [I], then hidden[b, layer] [H], or zeros where the row resets; out [B, I + H]."""
    for b in range(out.shape[0]):
        source, memory, row = inputs[b], hidden[b, layer], out[b]
        above, beside = row[: source.size], row[source.size :]
        for j in range(source.size):
            _put(above, j, _get(source, j))
        if resets[b]:
            for j in range(beside.size):
                _put(beside, j, np.float32(0))
        else:
            for j in range(beside.size):
                _put(beside, j, memory[j])


@_kernel
def lstm_cell(layer, resets, sums, bias, cells, hidden_after, cells_after, outputs) -> None:
    """What follows the matrix product in a single step of one LSTM layer.

    Args:
        layer: l.
        resets: bool [B].
        sums: [B, 4 H], without bias, of the gates i, f, g, o.
        bias: [4 H].
        cells: [B, L, H], before the step and before the row resets.
        hidden_after: [B, L, H], at l filled with the outputs as they are rounded.
        cells_after: [B, L, H], at l filled.
        outputs: [B, H], filled.
    """
    size = outputs.shape[1]
    gates = np.empty(4 * size, np.float32)
    both, candidate, leaving = gates[: 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    entering, forgetting = both[:size], both[size:]
    for b in range(outputs.shape[0]):
        row, before, after = sums[b], cells[b, layer], cells_after[b, layer]
        output, hidden = outputs[b], hidden_after[b, layer]
        for j in range(gates.size):
            gates[j] = _get(row, j) + bias[j]
        for j in range(both.size):
            both[j] = _sigmoid(both[j])
        for j in range(candidate.size):
            candidate[j] = _tanh(candidate[j])
        for j in range(leaving.size):
            leaving[j] = _sigmoid(leaving[j])
        if resets[b]:
            for j in range(after.size):
                after[j] = entering[j] * candidate[j]
        else:
            for j in range(after.size):
                after[j] = forgetting[j] * before[j] + entering[j] * candidate[j]
        for j in range(after.size):
            _put(output, j, leaving[j] * _tanh(after[j]))
        for j in range(after.size):
            hidden[j] = _get(output, j)


@_kernel
def through_lstm_step(
    step, resets, gates, cells, tanh_cells, grad_outputs, grad_hidden, grad_cells, grad_gates, grad_bias
) -> None:
    """The way back through `lstm_step`.

    Args:
        step: t; later steps have been gone through.
        resets: as there.
        gates: as there, filled.
        cells: as there, filled.
        tanh_cells: as there, filled.
        grad_outputs: [B, T, H].
        grad_hidden: [B, H], of the memory that step t left for step t + 1.
        grad_cells: [B, H], of the cells that step t left; becomes that of the cells that it found.
        grad_gates: [B, T, 4 H], filled at t with the gradient of the sums.
        grad_bias: [4 H], added to.
    """
    num_rows, num_steps, size = tanh_cells.shape
    for b in range(num_rows):
        row, before, cell = gates[b, step], cells[b, step], tanh_cells[b, step]
        entering, forgetting = row[:size], row[size : 2 * size]
        candidate, leaving = row[2 * size : 3 * size], row[3 * size :]
        target = grad_gates[b, step]
        to_entering, to_forgetting = target[:size], target[size : 2 * size]
        to_candidate, to_leaving = target[2 * size : 3 * size], target[3 * size :]
        above, later, carried = grad_outputs[b, step], grad_hidden[b], grad_cells[b]
        if step + 1 < num_steps and resets[b, step + 1]:  # the next step did not see what this one left
            for j in range(size):
                later[j] = np.float32(0)
                carried[j] = np.float32(0)
        for j in range(size):
            grad = above[j] + later[j]
            to_leaving[j] = grad * cell[j] * leaving[j] * (np.float32(1) - leaving[j])
            carried[j] += grad * leaving[j] * (np.float32(1) - cell[j] * cell[j])
        for j in range(size):
            to_entering[j] = carried[j] * candidate[j] * entering[j] * (np.float32(1) - entering[j])
            to_candidate[j] = carried[j] * entering[j] * (np.float32(1) - candidate[j] * candidate[j])
        for j in range(size):
            to_forgetting[j] = carried[j] * before[j] * forgetting[j] * (np.float32(1) - forgetting[j])
            carried[j] *= forgetting[j]
        for j in range(target.size):
            grad_bias[j] += target[j]
