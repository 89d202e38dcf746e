"""An LSTM on the CPU that knows of resets: in float32, and in bfloat16 for a single step without gradients.

Memory is zeroed inside the loop over time, at no cost.

The matrix products are torch's, over all steps at once where they can be; what stands between them is one pass per
step (`cpu_kernels.py`). Formulas as in torch.nn.LSTM:

    i, f, o = sigmoid(W x + U h + b) each, g = tanh(W x + U h + b)
    c' = f c + i g
    h' = o tanh(c')
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metta_train.policies import cpu_kernels
from metta_train.policies.held_weights import held
from metta_train.specs.recurrent_state import RecurrentState


def suits_cpu_lstm(lstm: nn.LSTM, inputs: Tensor) -> bool:
    """Whether `cpu_lstm` can take the place of `lstm(inputs)`."""
    plain = lstm.bias and not lstm.bidirectional and lstm.proj_size == 0 and lstm.dropout == 0
    exact = inputs.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and exact and inputs.device.type == "cpu"


def cpu_lstm(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
    """What `recurrence.run_lstm` says, row b zeroed before every step t where `resets[b, t]`."""
    parameters = [parameter for layer in lstm.all_weights for parameter in layer]
    outputs, hidden, cell = _Lstm.apply(inputs.contiguous(), *state.tensors, resets, *parameters)  # pyright: ignore[reportGeneralTypeIssues]
    return outputs, RecurrentState((hidden, cell))


def suits_single_step(lstm: nn.LSTM, inputs: Tensor) -> bool:
    """Whether `single_step` can take the place of `lstm(inputs)`."""
    plain = lstm.bias and not lstm.bidirectional and lstm.proj_size == 0 and lstm.dropout == 0
    single = inputs.shape[1] == 1 and not torch.is_grad_enabled()
    if torch.is_autocast_enabled("cpu"):
        known = torch.get_autocast_dtype("cpu") == torch.bfloat16
    else:
        known = inputs.dtype == torch.float32
    return plain and single and known and inputs.device.type == "cpu"


def single_step(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
    """What `recurrence.run_lstm` says of one step, `inputs [B, 1, I]`, without gradients; memory is float32.

    Inputs and memory stand side by side, in bfloat16 under autocast, so that a layer is one product.
    """
    dtype, side_by_side = torch.float32, _side_by_side
    if torch.is_autocast_enabled("cpu"):
        dtype, side_by_side = torch.bfloat16, _side_by_side_in_bfloat16
    numbers = cpu_kernels.numbers_of
    hidden, cells = (tensor.contiguous() for tensor in state.tensors)
    hidden_after, cells_after = torch.empty_like(hidden), torch.empty_like(cells)
    marks = resets[:, 0].contiguous().numpy()
    outputs = inputs[:, 0].contiguous()
    for index, (weight_inputs, weight_hidden, bias_inputs, bias_hidden) in enumerate(lstm.all_weights):
        rows, size = outputs.shape
        operands = outputs.new_empty(rows, size + lstm.hidden_size, dtype=dtype)
        cpu_kernels.lstm_operands(index, marks, numbers(outputs), numbers(hidden), numbers(operands))
        sums = operands @ held(side_by_side, weight_inputs, weight_hidden).t()
        bias = held(torch.add, bias_inputs, bias_hidden)
        outputs = operands.new_empty(rows, lstm.hidden_size)
        tensors = (sums, bias, cells, hidden_after, cells_after, outputs)
        cpu_kernels.lstm_cell(index, marks, *map(numbers, tensors))
    return outputs.unsqueeze(1), RecurrentState((hidden_after, cells_after))


def _side_by_side(weight_inputs: Tensor, weight_hidden: Tensor) -> Tensor:
    return torch.cat([weight_inputs, weight_hidden], dim=1)


def _side_by_side_in_bfloat16(weight_inputs: Tensor, weight_hidden: Tensor) -> Tensor:
    return _side_by_side(weight_inputs, weight_hidden).to(torch.bfloat16)


class _Layer:
    """One layer's numbers, all `[B, T, ...]`: kept from the forward pass for the backward one.

    What the LSTM returns is not among them: it holds its own history, and in that circle nothing would be freed.
    """

    def __init__(self, inputs: Tensor, hidden_size: int) -> None:
        rows, steps, _ = inputs.shape
        self.inputs = inputs
        self.gates = inputs.new_empty(rows, steps, 4 * hidden_size)  # i, f, g, o, after their activations
        self.hidden = inputs.new_empty(rows, steps, hidden_size)  # as the step finds it: zero where the row resets
        self.cells = torch.empty_like(self.hidden)  # likewise
        self.tanh_cells = torch.empty_like(self.hidden)  # after the step


class _Lstm(torch.autograd.Function):
    """Inputs `[B, T, I]`, two states `[B, L, H]`, resets `[B, T]` -> outputs `[B, T, H]` and the states after them."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        resets: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        numbers = cpu_kernels.numbers_of
        marks = resets.contiguous().numpy()
        layers, hidden_after, cells_after = [], [], []
        outputs = inputs
        for index, (weight_inputs, weight_hidden, bias_inputs, bias_hidden) in enumerate(_by_layer(parameters)):
            layer = _Layer(outputs, hidden.shape[2])
            torch.mm(outputs.flatten(0, 1), weight_inputs.t(), out=layer.gates.flatten(0, 1))
            for first, memory in ((hidden, layer.hidden), (cell, layer.cells)):
                cpu_kernels.open_memory(marks, numbers(first[:, index].contiguous()), numbers(memory))
            outputs = torch.empty_like(layer.hidden)
            last_cells = torch.empty_like(outputs[:, 0])
            bias = numbers(bias_inputs + bias_hidden)
            tensors = (layer.gates, layer.hidden, layer.cells, layer.tanh_cells, outputs, last_cells)
            arrays = tuple(map(numbers, tensors))
            for step, (gates, memory) in enumerate(zip(layer.gates.unbind(1), layer.hidden.unbind(1), strict=True)):
                gates.addmm_(memory, weight_hidden.t())
                cpu_kernels.lstm_step(step, marks, bias, *arrays)
            layers.append(layer)
            hidden_after.append(outputs[:, -1])
            cells_after.append(last_cells)
        ctx.layers, ctx.marks = layers, marks
        ctx.save_for_backward(*parameters)
        return outputs, torch.stack(hidden_after, dim=1), torch.stack(cells_after, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_hidden: Tensor, grad_cell: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        numbers = cpu_kernels.numbers_of
        marks = ctx.marks
        grad_first_hidden, grad_first_cell = torch.empty_like(grad_hidden), torch.empty_like(grad_cell)
        grads: list[Tensor] = []
        grad = grad_outputs.contiguous()
        for index, (weight_inputs, weight_hidden, *_) in reversed(list(enumerate(_by_layer(ctx.saved_tensors)))):
            layer: _Layer = ctx.layers[index]
            grad_gates = torch.empty_like(layer.gates)
            grad_bias = grad.new_zeros(weight_inputs.shape[0])
            grad_memory, grad_cells = grad_hidden[:, index].contiguous(), grad_cell[:, index].contiguous()
            tensors = (layer.gates, layer.cells, layer.tanh_cells, grad, grad_memory, grad_cells, grad_gates, grad_bias)
            arrays = tuple(map(numbers, tensors))
            for step, grad_step in reversed(list(enumerate(grad_gates.unbind(1)))):
                cpu_kernels.through_lstm_step(step, marks, *arrays)
                torch.mm(grad_step, weight_hidden, out=grad_memory)
            opens = torch.from_numpy(marks[:, 0]).unsqueeze(1)
            grad_first_hidden[:, index] = grad_memory.masked_fill(opens, 0)
            grad_first_cell[:, index] = grad_cells.masked_fill(opens, 0)
            flat = grad_gates.flatten(0, 1)
            of_weights = [flat.t() @ tensor.flatten(0, 1) for tensor in (layer.inputs, layer.hidden)]
            grads = [*of_weights, grad_bias, grad_bias.clone(), *grads]  # the sums hold both biases
            if index > 0 or ctx.needs_input_grad[0]:
                grad = (flat @ weight_inputs).view_as(layer.inputs)
        return grad, grad_first_hidden, grad_first_cell, None, *grads


def _by_layer(parameters: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """(weight_ih, weight_hh, bias_ih, bias_hh) of each layer."""
    return [parameters[first : first + 4] for first in range(0, len(parameters), 4)]
