"""LSTM over rows whose memory is zeroed where an episode begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from metta_train.policies.cpu_lstm import cpu_lstm, suits_cpu_lstm
from metta_train.policies.held_signals import signals_held
from metta_train.policies.initialization import Initializer, LstmBiasMode, LstmInputBias, Orthogonal, Zeros
from metta_train.policies.watched import is_recorded, is_watched
from metta_train.specs.recurrent_state import RecurrentState

_state_is_read = ContextVar("state_is_read", default=True)


@contextmanager
def outputs_alone() -> Iterator[None]:
    """Inside, nobody reads the state after the last step, so `run_lstm` may return NaN for it."""
    token = _state_is_read.set(False)
    try:
        yield
    finally:
        _state_is_read.reset(token)


def lstm_state_shapes(hidden_size: int, num_layers: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes per row of (hidden, cell)."""
    return (num_layers, hidden_size), (num_layers, hidden_size)


def lstm_initial_values(num_layers: int, bias_init: LstmBiasMode) -> dict[str, Initializer]:
    """Initial values by parameter name.

    The two biases of a gate are added by torch; `forget` puts the 1 into the input bias alone, and `ones` sets both,
    so that every gate starts with +2.
    """
    hidden_bias = LstmInputBias("ones") if bias_init == "ones" else Zeros()
    values: dict[str, Initializer] = {}
    for layer in range(num_layers):
        values[f"weight_ih_l{layer}"] = Orthogonal()
        values[f"weight_hh_l{layer}"] = Orthogonal()
        values[f"bias_ih_l{layer}"] = LstmInputBias(bias_init)
        values[f"bias_hh_l{layer}"] = hidden_bias
    return values


def run_lstm(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
    """T steps of B rows through a batch-first LSTM; row b is zeroed before step t where `resets[b, t]`.

    On the CPU `cpu_lstm.py` does it where it can; recorded operations (`watched.recorded`) go cell by cell. Else all
    rows go through torch's fused kernel as if they had no reset after their first step, and what follows a reset
    replaces that: it starts from zeros in a row of its own, in the same call (`outputs_alone`), or, because the kernel
    tells the state of all rows at the last step only, in one more call for each step at which rows reset. A single
    step costs one call and nothing depends on the data.

    Args:
        lstm: `batch_first=True`, not bidirectional, no dropout.
        inputs: `[B, T, input_size]`.
        state: (hidden, cell), each `[B, layers, hidden_size]`.
        resets: bool `[B, T]`.

    Returns:
        Outputs `[B, T, hidden_size]` and the state after the last step.
    """
    if is_recorded():
        return _run_cells(lstm, inputs, state, resets)
    if not is_watched(lstm) and suits_cpu_lstm(lstm, inputs):
        return cpu_lstm(lstm, inputs, state, resets)
    state = state.zero_where(resets[:, 0])
    if inputs.shape[1] == 1:
        return _run_piece(lstm, inputs, state)
    if not _state_is_read.get() and not is_watched(lstm):
        return _run_in_rows_of_their_own(lstm, inputs, state, resets), RecurrentState(
            tuple(torch.full_like(tensor, torch.nan) for tensor in state.tensors)
        )
    columns = (resets[:, 1:].any(dim=0).nonzero().squeeze(1) + 1).tolist()  # waits for the device on CUDA
    if columns and is_watched(lstm):
        return _run_cut(lstm, inputs, state, resets, columns)
    outputs, after = _run_piece(lstm, inputs, state)
    if not columns:
        return outputs, after
    outputs, finals = outputs.clone(), tuple(tensor.clone() for tensor in after.tensors)
    for column in columns:  # in order: what is played again here may be replaced by a later reset of the row
        rows = resets[:, column].nonzero().squeeze(1)
        zeros = RecurrentState(tuple(tensor.new_zeros(len(rows), *tensor.shape[1:]) for tensor in finals))
        outputs[rows, column:], again = _run_piece(lstm, inputs[rows, column:], zeros)
        for final, tensor in zip(finals, again.tensors, strict=True):
            final[rows] = tensor
    return outputs, RecurrentState(finals)


def _run_in_rows_of_their_own(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor) -> Tensor:
    """Outputs `[B, T, H]`; the state has been zeroed for resets at the first step."""
    num_rows, num_steps = resets.shape
    inner = resets.clone()
    inner[:, 0] = False
    rows, firsts = inner.nonzero().unbind(1)  # K resets, row by row; waits for the device on CUDA
    if not len(rows):
        return _run_piece(lstm, inputs, state)[0]
    steps = torch.arange(num_steps, device=inputs.device)
    # What stands behind the end of the row repeats its last step, and nobody reads it.
    moved = inputs[rows.unsqueeze(1), (firsts.unsqueeze(1) + steps).clamp_max(num_steps - 1)]
    zeros = [tensor.new_zeros(len(rows), *tensor.shape[1:]) for tensor in state.tensors]
    state = RecurrentState(tuple(torch.cat(pair) for pair in zip(state.tensors, zeros, strict=True)))
    outputs, _ = _run_piece(lstm, torch.cat([inputs, moved]), state)
    # Step t of row b is found at step t - f of row B + k, if reset k at step f is the last one of the row up to t.
    latest = inner.flatten().cumsum(0).view_as(inner) - 1
    after_reset = inner.cumsum(1) > 0
    where = torch.where(after_reset, num_rows + latest, torch.arange(num_rows, device=inputs.device).unsqueeze(1))
    when = torch.where(after_reset, steps - firsts[latest.clamp_min(0)], steps)
    return outputs.flatten(0, 1).index_select(0, (where * num_steps + when).flatten()).view_as(outputs[:num_rows])


def _run_cells(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
    """One step of one layer after the other: many small operations, none of which depends on the data."""
    hidden, cell = (list(tensor.unbind(1)) for tensor in state.tensors)
    outputs = []
    for step, opens in enumerate(resets.unsqueeze(-1).unbind(1)):
        out = inputs[:, step]
        for layer, weights in enumerate(lstm.all_weights):
            memory = (hidden[layer].masked_fill(opens, 0.0), cell[layer].masked_fill(opens, 0.0))
            out, after = torch.lstm_cell(out, memory, *weights)
            hidden[layer], cell[layer] = out, after
        outputs.append(out)
    state = RecurrentState((torch.stack(hidden, dim=1).float(), torch.stack(cell, dim=1).float()))
    return torch.stack(outputs, dim=1), state


def _run_cut(
    lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor, columns: list[int]
) -> tuple[Tensor, RecurrentState]:
    """All rows are cut where one of them resets: whoever listens to the LSTM hears every step of a row once."""
    pieces = []
    for first, end in zip([0, *columns], [*columns, inputs.shape[1]], strict=True):
        if first > 0:
            state = state.zero_where(resets[:, first])
        outputs, state = _run_piece(lstm, inputs[:, first:end], state)
        pieces.append(outputs)
    return torch.cat(pieces, dim=1), state


def _run_piece(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
    hidden, cell = (tensor.transpose(0, 1).contiguous() for tensor in state.tensors)
    # The backward pass is the trainer's to guard.
    with signals_held() if torch.is_grad_enabled() and inputs.device.type == "cpu" else nullcontext():
        outputs, (hidden, cell) = lstm(inputs, (hidden, cell))
    # Autocast returns bfloat16; the state that segments store is float32.
    return outputs, RecurrentState((hidden.transpose(0, 1).float(), cell.transpose(0, 1).float()))
