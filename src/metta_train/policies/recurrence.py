"""LSTM over rows whose memory is zeroed where an episode begins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta_train.policies.initialization import Initializer, LstmBiasMode, LstmInputBias, Orthogonal, Zeros
from metta_train.policies.lstm_loop import can_loop, loop_lstm
from metta_train.policies.watched import is_watched
from metta_train.specs.recurrent_state import RecurrentState


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

    In float32 on the CPU a loop over time is the fastest way (`lstm_loop.py`), and resets cost it nothing. Otherwise
    rows without a reset after their first step go through the fused kernel in one call; the other rows are cut at the
    union of their reset columns. One step costs one kernel call and nothing depends on the data.

    Args:
        lstm: `batch_first=True`, not bidirectional, no dropout.
        inputs: `[B, T, input_size]`.
        state: (hidden, cell), each `[B, layers, hidden_size]`.
        resets: bool `[B, T]`.

    Returns:
        Outputs `[B, T, hidden_size]` and the state after the last step.
    """
    if inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and can_loop(lstm) and not is_watched(lstm):
        hidden, cell = state.tensors
        outputs, hidden, cell = loop_lstm(lstm, inputs, hidden, cell, resets)
        return outputs, RecurrentState((hidden, cell))
    state = state.zero_where(resets[:, 0])
    if inputs.shape[1] == 1:
        return _run_piece(lstm, inputs, state)
    dirty = resets[:, 1:].any(dim=1)
    dirty_rows = dirty.nonzero().squeeze(1)  # waits for the device on CUDA: the split depends on the data
    if len(dirty_rows) == 0:
        return _run_piece(lstm, inputs, state)
    if len(dirty_rows) == len(dirty):
        return _run_cut(lstm, inputs, state, resets)
    clean_rows = dirty.logical_not().nonzero().squeeze(1)
    clean_outputs, clean_state = _run_piece(lstm, inputs[clean_rows], state.rows(clean_rows))
    dirty_outputs, dirty_state = _run_cut(lstm, inputs[dirty_rows], state.rows(dirty_rows), resets[dirty_rows])
    order = torch.cat((clean_rows, dirty_rows)).argsort()
    return (
        torch.cat((clean_outputs, dirty_outputs))[order],
        RecurrentState(
            tuple(torch.cat(pair)[order] for pair in zip(clean_state.tensors, dirty_state.tensors, strict=True))
        ),
    )


def _run_cut(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
    """All rows are cut at every column in which one of them resets; column 0 is already applied to `state`."""
    cuts = (resets[:, 1:].any(dim=0).nonzero().squeeze(1) + 1).tolist()
    pieces = []
    for first, end in zip([0, *cuts], [*cuts, inputs.shape[1]], strict=True):
        if first > 0:
            state = state.zero_where(resets[:, first])
        outputs, state = _run_piece(lstm, inputs[:, first:end], state)
        pieces.append(outputs)
    return torch.cat(pieces, dim=1), state


def _run_piece(lstm: nn.LSTM, inputs: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
    hidden, cell = (tensor.transpose(0, 1).contiguous() for tensor in state.tensors)
    outputs, (hidden, cell) = lstm(inputs, (hidden, cell))
    # Autocast returns bfloat16; the state that segments store is float32.
    return outputs, RecurrentState((hidden.transpose(0, 1).float(), cell.transpose(0, 1).float()))
