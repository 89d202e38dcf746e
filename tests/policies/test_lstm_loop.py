"""The loop over time against torch's own LSTM, one step at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metta_train.policies.lstm_loop import can_loop, loop_lstm


def torch_steps(lstm, inputs, hidden, cell, resets):
    """Zero, then one step of torch's LSTM."""
    hidden, cell = hidden.transpose(0, 1), cell.transpose(0, 1)
    outputs = []
    for step in range(inputs.shape[1]):
        keep = (~resets[:, step]).float().view(1, -1, 1)
        output, (hidden, cell) = lstm(inputs[:, step : step + 1], (hidden * keep, cell * keep))
        outputs.append(output)
    return torch.cat(outputs, dim=1), hidden.transpose(0, 1), cell.transpose(0, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.data())
def test_values_and_gradients_equal_those_of_torch(rows, steps, layers, data):
    flags = st.lists(st.lists(st.booleans(), min_size=steps, max_size=steps), min_size=rows, max_size=rows)
    resets = torch.tensor(data.draw(flags))
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, layers, batch_first=True)
    tensors = [torch.randn(rows, steps, 3), torch.randn(rows, layers, 4), torch.randn(rows, layers, 4)]
    weigh = [torch.randn(rows, steps, 4), torch.randn(rows, layers, 4), torch.randn(rows, layers, 4)]
    seen = []
    for function in (loop_lstm, torch_steps):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        lstm.zero_grad()
        results = function(lstm, leaves[0], leaves[1], leaves[2], resets)
        torch.stack([(result * weight).sum() for result, weight in zip(results, weigh, strict=True)]).sum().backward()
        gradients = [leaf.grad for leaf in leaves] + [p.grad.clone() for p in lstm.parameters() if p.grad is not None]
        seen.append([*(result.detach() for result in results), *gradients])
    assert len(seen[0]) == 6 + 4 * layers
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_result_alone_has_a_gradient(part):
    """torch hands over None for the results that nobody used."""
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, 2, batch_first=True)
    tensors = torch.randn(2, 3, 3), torch.randn(2, 2, 4), torch.randn(2, 2, 4)
    resets = torch.zeros(2, 3, dtype=torch.bool)
    gradients = []
    for function in (loop_lstm, torch_steps):
        lstm.zero_grad()
        function(lstm, *tensors, resets)[part].sum().backward()
        gradients.append([p.grad.clone() for p in lstm.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_inputs_are_left_as_they_are():
    lstm = nn.LSTM(3, 4, batch_first=True)
    tensors = [torch.randn(2, 3, 3), torch.randn(2, 1, 4), torch.randn(2, 1, 4), torch.rand(2, 3) < 0.5]
    before = [tensor.clone() for tensor in tensors]
    loop_lstm(lstm, tensors[0], tensors[1], tensors[2], tensors[3])
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))


def test_other_kinds_of_lstm_are_left_to_torch():
    assert can_loop(nn.LSTM(3, 4, 2, batch_first=True))
    assert not can_loop(nn.LSTM(3, 4, bidirectional=True))
    assert not can_loop(nn.LSTM(3, 4, proj_size=2))
    assert not can_loop(nn.LSTM(3, 4, bias=False))
