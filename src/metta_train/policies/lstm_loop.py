"""An LSTM layer as a loop over time, for float32 on the CPU: faster than torch's kernel, and resets cost nothing.

Input projections and weight gradients are one matrix product over all steps; a step is one small product and a few
elementwise operations in place. docs/benchmarks.md has the measurement.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def can_loop(lstm: nn.LSTM) -> bool:
    """Whether `loop_lstm` computes what `lstm` does."""
    return lstm.bias and lstm.proj_size == 0 and not lstm.bidirectional and lstm.dropout == 0.0


def loop_lstm(
    lstm: nn.LSTM, inputs: Tensor, hidden: Tensor, cell: Tensor, resets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """T steps of B rows; the memory of row b is zeroed before step t where `resets[b, t]`.

    Args:
        lstm: see `can_loop`.
        inputs: `[B, T, input_size]`.
        hidden: `[B, layers, hidden_size]` float32, as is `cell`.
        cell: before the first step.
        resets: bool `[B, T]`.

    Returns:
        Outputs `[B, T, hidden_size]` and the two halves of the memory after the last step.
    """
    resets_tb = resets.t()
    # A step without a reset skips the product with ones.
    keeps = [
        keep if resets_here else None
        for keep, resets_here in zip(
            resets_tb.logical_not().unsqueeze(2).float().unbind(0), resets_tb.any(dim=1).tolist(), strict=True
        )
    ]
    signal = inputs.transpose(0, 1).contiguous()
    hiddens, cells = [], []
    for layer, (h, c) in enumerate(zip(hidden.unbind(1), cell.unbind(1), strict=True)):
        weights = (getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        result = _Layer.apply(signal, h, c, *weights, keeps)
        assert result is not None  # torch's type of apply knows better
        signal, last_cell = result
        hiddens.append(signal[-1])
        cells.append(last_cell)
    return signal.transpose(0, 1), torch.stack(hiddens, dim=1), torch.stack(cells, dim=1)


class _Layer(torch.autograd.Function):
    """One layer, time first: inputs `[T, B, I]` -> hidden states `[T, B, H]` and the last cell state `[B, H]`.

    Gates are (input, forget, candidate, output), as torch orders them in the weights:
    c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t).
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        keeps: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        steps, rows, _ = inputs.shape
        size = hidden.shape[1]
        gates = torch.addmm(bias_ih + bias_hh, inputs.flatten(0, 1), weight_ih.t()).unflatten(0, (steps, rows))
        recurrent = weight_hh.t()
        hiddens, cells, tanh_cells = (inputs.new_empty(steps, rows, size) for _ in range(3))
        h, c = hidden, cell
        for gate, in_forget, candidate, output, next_h, next_c, tanh_c, keep in zip(
            gates.unbind(0),
            gates[..., : 2 * size].unbind(0),
            gates[..., 2 * size : 3 * size].unbind(0),
            gates[..., 3 * size :].unbind(0),
            hiddens.unbind(0),
            cells.unbind(0),
            tanh_cells.unbind(0),
            keeps,
            strict=True,
        ):
            if keep is not None:
                h, c = h * keep, c * keep
            gate.addmm_(h, recurrent)
            in_forget.sigmoid_()
            candidate.tanh_()
            output.sigmoid_()
            torch.mul(in_forget[:, size:], c, out=next_c)
            next_c.addcmul_(in_forget[:, :size], candidate)
            torch.tanh(next_c, out=tanh_c)
            torch.mul(output, tanh_c, out=next_h)
            h, c = next_h, next_c
        ctx.keeps = keeps
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, hidden, cell, weight_ih, weight_hh, gates, hiddens, cells, tanh_cells)
        return hiddens, c.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hiddens: Tensor | None, grad_cell: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, hidden, cell, weight_ih, weight_hh, gates, hiddens, cells, tanh_cells = ctx.saved_tensors
        steps, rows, size = hiddens.shape
        keeps = ctx.keeps
        if grad_hiddens is None:
            grad_hiddens = torch.zeros_like(hiddens)
        # What stood before each step, after its reset.
        hiddens_before = torch.cat((hidden.unsqueeze(0), hiddens[:-1]))
        cells_before = torch.cat((cell.unsqueeze(0), cells[:-1]))
        for step, keep in enumerate(keeps):
            if keep is not None:
                hiddens_before[step].mul_(keep)
                cells_before[step].mul_(keep)
        slopes, cell_slopes = _slopes(gates, cells_before, tanh_cells)

        # The slopes become the gradients of the gates in place, from the last step to the first.
        grad_h = grad_c = None
        for step in reversed(range(steps)):
            through_h = grad_hiddens[step] if grad_h is None else grad_hiddens[step] + grad_h
            grad_c = grad_cell if grad_c is None else grad_c
            grad_c = through_h * cell_slopes[step] if grad_c is None else grad_c.addcmul(through_h, cell_slopes[step])
            slope = slopes[step]
            slope[:, : 3 * size].unflatten(1, (3, size)).mul_(grad_c.unsqueeze(1))
            slope[:, 3 * size :].mul_(through_h)
            grad_h = slope @ weight_hh
            grad_c = grad_c * gates[step, :, size : 2 * size]
            keep = keeps[step]
            if keep is not None:
                grad_h.mul_(keep)
                grad_c.mul_(keep)

        grads = slopes.flatten(0, 1)
        grad_bias = grads.sum(dim=0)
        grad_inputs = (grads @ weight_ih).unflatten(0, (steps, rows)) if ctx.needs_input_grad[0] else None
        grad_ih = grads.t() @ inputs.flatten(0, 1)
        grad_hh = grads.t() @ hiddens_before.flatten(0, 1)
        return grad_inputs, grad_h, grad_c, grad_ih, grad_hh, grad_bias, grad_bias, None


def _slopes(gates: Tensor, cells_before: Tensor, tanh_cells: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives that do not depend on later steps.

    Of c_t by the first three gates' pre-activations and of h_t by the fourth's `[T, B, 4 H]`, and of h_t by c_t.
    """
    size = cells_before.shape[2]
    slopes = torch.empty_like(gates)
    i, f, g, o = gates.split(size, dim=2)
    slope_i, slope_f, slope_g, slope_o = slopes.split(size, dim=2)
    # Of a sigmoid: s (1 - s) = s - s^2; of tanh: 1 - t^2.
    torch.addcmul(i, i, i, value=-1.0, out=slope_i).mul_(g)
    torch.addcmul(f, f, f, value=-1.0, out=slope_f).mul_(cells_before)
    torch.mul(g, g, out=slope_g).neg_().add_(1.0).mul_(i)
    torch.addcmul(o, o, o, value=-1.0, out=slope_o).mul_(tanh_cells)
    cell_slopes = torch.square(tanh_cells).neg_().add_(1.0).mul_(o)
    return slopes, cell_slopes
