"""One layer of an LSTM over rows and time, memory zeroed where an episode begins.

All sums of a step are one product: inputs and memory stand side by side, and so do their weights.
"""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import inline, kernel
from metta_train.policies.kernels.numbers import copy_unless, get, put, sigmoid_of, tanh_of
from metta_train.policies.kernels.products import end_of_products, multiply

BLOCK = 64  # rows that are multiplied at once, so that their sums are still in the cache when they are read


@inline
def _put_unless(zeroed, source, target) -> None:
    for j in range(target.size):
        put(target, j, np.float32(0) if zeroed else source[j])


@kernel
def lstm_layer(
    layer,
    resets,
    inputs,
    hidden,
    cells,
    weights,
    bias,
    operands,
    gates,
    cells_before,
    tanh_cells,
    outputs,
    hidden_after,
    cells_after,
) -> None:
    """T steps of layer l.

    Args:
        layer: l.
        resets: bool [B, T].
        inputs: [B, T, I].
        hidden: float32 [B, L, H], before the first step.
        cells: likewise.
        weights: [I + H, 4 H], `packed`.
        bias: float32 [4 H].
        operands: [T, B, I + H], filled with the inputs and the memory that the step finds.
        gates: float32 [T, B, 4 H], filled with i, f, g, o.
        cells_before: float32 [T, B, H], filled with the cells that the step finds.
        tanh_cells: float32 [T, B, H], filled, of those that it leaves.
        outputs: [B, T, H], filled.
        hidden_after: float32 [B, L, H], at l filled with the last outputs.
        cells_after: float32 [B, L, H], at l filled.
    """
    num_rows, num_steps, size = outputs.shape
    width = inputs.shape[2]
    # Slices, because Numba makes vector code of loops that begin at 0.
    bias_both, bias_candidate, bias_leaving = bias[: 2 * size], bias[2 * size : 3 * size], bias[3 * size :]
    for b in range(num_rows):
        _put_unless(resets[b, 0], hidden[b, layer], operands[0, b, width:])
        copy_unless(resets[b, 0], cells[b, layer], cells_before[0, b])
    for step in range(num_steps):
        for first in range(0, num_rows, BLOCK):
            end = min(first + BLOCK, num_rows)
            for b in range(first, end):
                operands[step, b, :width] = inputs[b, step]
            multiply(operands[step, first:end], weights, gates[step, first:end])
            for b in range(first, end):
                row, before, cell, output = gates[step, b], cells_before[step, b], tanh_cells[step, b], outputs[b, step]
                both, candidate, leaving = row[: 2 * size], row[2 * size : 3 * size], row[3 * size :]
                for j in range(both.size):
                    both[j] = sigmoid_of(both[j] + bias_both[j])
                for j in range(candidate.size):
                    candidate[j] = tanh_of(candidate[j] + bias_candidate[j])
                for j in range(leaving.size):
                    leaving[j] = sigmoid_of(leaving[j] + bias_leaving[j])
                entering, forgetting = both[:size], both[size:]
                for j in range(cell.size):
                    cell[j] = forgetting[j] * before[j] + entering[j] * candidate[j]
                if step + 1 < num_steps:
                    copy_unless(resets[b, step + 1], cell, cells_before[step + 1, b])
                else:
                    copy_unless(False, cell, cells_after[b, layer])
                for j in range(cell.size):
                    cell[j] = tanh_of(cell[j])
                for j in range(cell.size):
                    put(output, j, leaving[j] * cell[j])
                if step + 1 < num_steps:
                    memory = operands[step + 1, b, width:]
                    for j in range(memory.size):
                        memory[j] = output[j]
                    if resets[b, step + 1]:
                        memory[:] = 0
                else:
                    last = hidden_after[b, layer]
                    for j in range(last.size):
                        last[j] = get(output, j)
    end_of_products(operands)


@kernel
def through_lstm_layer(
    resets,
    gates,
    cells_before,
    tanh_cells,
    weights,
    grad_outputs,
    grad_hidden,
    grad_cells,
    grad_gates,
    grad_operands,
    grad_inputs,
    grad_bias,
) -> None:
    """The way back through `lstm_layer`.

    Args:
        resets: as there.
        gates: as there, filled.
        cells_before: likewise.
        tanh_cells: likewise.
        weights: [4 H, I + H], `packed`.
        grad_outputs: [B, T, H].
        grad_hidden: float32 [B, H], of the memory after the last step; becomes that of the memory before the first.
        grad_cells: likewise, of the cells.
        grad_gates: [T, B, 4 H], filled with the gradients of the sums, as the products see them.
        grad_operands: float32 [B, I + H], in use.
        grad_inputs: [B, T, I], filled.
        grad_bias: float32 [4 H], added to.
    """
    num_rows, num_steps, size = grad_outputs.shape
    width = grad_inputs.shape[2]
    sums = np.empty(4 * size, np.float32)
    to_entering, to_forgetting = sums[:size], sums[size : 2 * size]
    to_candidate, to_leaving = sums[2 * size : 3 * size], sums[3 * size :]
    for step in range(num_steps - 1, -1, -1):
        for first in range(0, num_rows, BLOCK):
            end = min(first + BLOCK, num_rows)
            for b in range(first, end):
                row, before, cell = gates[step, b], cells_before[step, b], tanh_cells[step, b]
                entering, forgetting = row[:size], row[size : 2 * size]
                candidate, leaving = row[2 * size : 3 * size], row[3 * size :]
                target, above = grad_gates[step, b], grad_outputs[b, step]
                later, carried = grad_hidden[b], grad_cells[b]
                if step + 1 < num_steps and resets[b, step + 1]:  # the next step did not see what this one left
                    later[:] = 0
                    carried[:] = 0
                for j in range(size):
                    grad = get(above, j) + later[j]
                    to_leaving[j] = grad * cell[j] * leaving[j] * (np.float32(1) - leaving[j])
                    carried[j] += grad * leaving[j] * (np.float32(1) - cell[j] * cell[j])
                for j in range(size):
                    to_entering[j] = carried[j] * candidate[j] * entering[j] * (np.float32(1) - entering[j])
                    to_candidate[j] = carried[j] * entering[j] * (np.float32(1) - candidate[j] * candidate[j])
                for j in range(size):
                    to_forgetting[j] = carried[j] * before[j] * forgetting[j] * (np.float32(1) - forgetting[j])
                    carried[j] *= forgetting[j]
                for j in range(sums.size):
                    grad_bias[j] += sums[j]
                for j in range(sums.size):
                    put(target, j, sums[j])
            multiply(grad_gates[step, first:end], weights, grad_operands[first:end])
            for b in range(first, end):
                to_inputs, to_memory = grad_operands[b, :width], grad_operands[b, width:]
                target, later = grad_inputs[b, step], grad_hidden[b]
                for j in range(target.size):
                    put(target, j, to_inputs[j])
                for j in range(later.size):
                    later[j] = to_memory[j]
    for b in range(num_rows):
        if resets[b, 0]:
            grad_hidden[b] = 0
            grad_cells[b] = 0
    end_of_products(grad_gates)
