"""An LSTM on the CPU that knows of resets: memory is zeroed inside the loop over time, at no cost.

Each layer is one kernel over all steps (`kernels/lstm.py`), in float32 or with bfloat16 products under autocast;
gates, cells and everything between the products are float32 in both. Formulas as in torch.nn.LSTM:

    i, f, o = sigmoid(W x + U h + b) each, g = tanh(W x + U h + b)
    c' = f c + i g
    h' = o tanh(c')
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metta_train.policies.held_weights import held
from metta_train.policies.kernels.lstm import lstm_layer, through_lstm_layer
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.kernels.products import TILE, multiplies, packed, packer
from metta_train.specs.recurrent_state import RecurrentState


def suits_cpu_lstm(lstm: nn.LSTM, inputs: Tensor) -> bool:
    """Whether `cpu_lstm` can take the place of `lstm(inputs)`."""
    plain = lstm.bias and not lstm.bidirectional and lstm.proj_size == 0 and lstm.dropout == 0
    if not plain or inputs.device.type != "cpu":
        return False
    if not torch.is_autocast_enabled("cpu"):
        return inputs.dtype == torch.float32 and multiplies(torch.float32)
    fits = lstm.input_size % TILE == 0 and lstm.hidden_size % TILE == 0
    return fits and torch.get_autocast_dtype("cpu") == torch.bfloat16 and multiplies(torch.bfloat16)


def cpu_lstm(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
    """What `recurrence.run_lstm` says, row b zeroed before every step t where `resets[b, t]`."""
    if torch.is_autocast_enabled("cpu"):
        inputs = inputs.to(torch.bfloat16)
    parameters = [parameter for layer in lstm.all_weights for parameter in layer]
    if torch.is_grad_enabled():
        outputs, hidden, cells = _Lstm.apply(inputs, *state.tensors, resets, *parameters)  # pyright: ignore[reportGeneralTypeIssues]
    else:
        hidden, cells = state.tensors
        outputs, hidden, cells, _ = _forward(inputs, hidden, cells, resets, parameters)
    return outputs, RecurrentState((hidden, cells))


class _Layer:
    """What the way back needs of one layer, all `[T, B, ...]`; see `lstm_layer`.

    What the LSTM returns is not among it: that holds its own history, and in that circle nothing would be freed.
    """

    def __init__(self, inputs: Tensor, hidden_size: int) -> None:
        rows, steps, width = inputs.shape
        self.operands = inputs.new_empty(steps, rows, width + hidden_size)
        self.gates = torch.empty(steps, rows, 4 * hidden_size)
        self.cells_before = torch.empty(steps, rows, hidden_size)
        self.tanh_cells = torch.empty(steps, rows, hidden_size)


def _forward(
    inputs: Tensor, hidden: Tensor, cells: Tensor, resets: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, list[_Layer]]:
    assert multiplies(inputs.dtype)
    marks = resets.contiguous().numpy()
    hidden, cells = hidden.contiguous(), cells.contiguous()
    hidden_after, cells_after = torch.empty_like(hidden), torch.empty_like(cells)
    pack = packer(inputs.dtype, transposed=True)
    layers = []
    outputs = inputs.contiguous()
    for index, (weight_inputs, weight_hidden, bias_inputs, bias_hidden) in enumerate(_by_layer(parameters)):
        layer = _Layer(outputs, hidden.shape[2])
        weights, bias = held(pack, weight_inputs, weight_hidden), held(torch.add, bias_inputs, bias_hidden)
        below, outputs = outputs, outputs.new_empty(*outputs.shape[:2], hidden.shape[2])
        tensors = (below, hidden, cells, weights, bias, layer.operands, layer.gates, layer.cells_before)
        filled = (layer.tanh_cells, outputs, hidden_after, cells_after)
        lstm_layer(index, marks, *map(numbers_of, tensors + filled))
        layers.append(layer)
    return outputs, hidden_after, cells_after, layers


class _Lstm(torch.autograd.Function):
    """Inputs `[B, T, I]`, two states `[B, L, H]`, resets `[B, T]` -> outputs `[B, T, H]` and the states after them."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        inputs: Tensor,
        hidden: Tensor,
        cells: Tensor,
        resets: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs, hidden_after, cells_after, ctx.layers = _forward(inputs, hidden, cells, resets, parameters)
        ctx.marks = resets.contiguous().numpy()
        ctx.save_for_backward(*parameters)
        return outputs, hidden_after, cells_after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_hidden: Tensor, grad_cells: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        grad_first_hidden, grad_first_cells = torch.empty_like(grad_hidden), torch.empty_like(grad_cells)
        grads: list[Tensor] = []
        grad = grad_outputs.contiguous()
        for index, (weight_inputs, weight_hidden, *_) in reversed(list(enumerate(_by_layer(ctx.saved_tensors)))):
            layer: _Layer = ctx.layers[index]
            width = weight_inputs.shape[1]
            weights = packed(weight_inputs, weight_hidden, dtype=grad.dtype)
            to_hidden, to_cells = grad_hidden[:, index].clone(), grad_cells[:, index].clone()
            grad_gates = torch.empty_like(layer.gates, dtype=grad.dtype)
            grad_operands = torch.empty(layer.operands.shape[1:])
            grad_inputs = grad.new_empty(*grad.shape[:2], width)
            grad_bias = torch.zeros(weight_inputs.shape[0])
            tensors = (layer.gates, layer.cells_before, layer.tanh_cells, weights, grad, to_hidden, to_cells)
            filled = (grad_gates, grad_operands, grad_inputs, grad_bias)
            through_lstm_layer(ctx.marks, *map(numbers_of, tensors + filled))
            grad_first_hidden[:, index], grad_first_cells[:, index] = to_hidden, to_cells
            of_weights = (grad_gates.flatten(0, 1).t() @ layer.operands.flatten(0, 1)).float()
            of_inputs, of_hidden = of_weights.split([width, weight_hidden.shape[1]], dim=1)
            grads = [of_inputs, of_hidden, grad_bias, grad_bias.clone(), *grads]  # the sums hold both biases
            grad = grad_inputs
        return grad, grad_first_hidden, grad_first_cells, None, *grads


def _by_layer(parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """(weight_ih, weight_hh, bias_ih, bias_hh) of each layer."""
    return [parameters[first : first + 4] for first in range(0, len(parameters), 4)]
