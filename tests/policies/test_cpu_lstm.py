"""The LSTM with resets inside against its slow twin, the formulas step by step in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metta_train.policies.cpu_lstm import cpu_lstm, suits_cpu_lstm
from metta_train.policies.kernels.products import multiplies
from metta_train.specs.recurrent_state import RecurrentState


def textbook(lstm: nn.LSTM, inputs, state, resets):
    """i, f, g, o as torch.nn.LSTM documents them."""
    last_hidden, last_cell = [], []
    for layer, (weight_inputs, weight_hidden, bias_inputs, bias_hidden) in enumerate(lstm.all_weights):
        hidden, cell = state.tensors[0][:, layer], state.tensors[1][:, layer]
        outputs = []
        for step in range(inputs.shape[1]):
            kept = (~resets[:, step]).unsqueeze(1)
            hidden, cell = hidden * kept, cell * kept
            sums = inputs[:, step] @ weight_inputs.t() + bias_inputs + hidden @ weight_hidden.t() + bias_hidden
            entering, forgetting, candidate, leaving = sums.chunk(4, dim=1)
            cell = forgetting.sigmoid() * cell + entering.sigmoid() * candidate.tanh()
            hidden = leaving.sigmoid() * cell.tanh()
            outputs.append(hidden)
        inputs = torch.stack(outputs, dim=1)
        last_hidden.append(hidden)
        last_cell.append(cell)
    return inputs, RecurrentState((torch.stack(last_hidden, dim=1), torch.stack(last_cell, dim=1)))


def results(run, lstm, inputs, state, resets, downstream):
    """Outputs, states after, and the gradients of everything that goes in."""
    lstm.zero_grad()
    leaves = [tensor.clone().requires_grad_() for tensor in (inputs, *state.tensors)]
    outputs, after = run(lstm, leaves[0], RecurrentState(tuple(leaves[1:])), resets)
    results = [outputs, *after.tensors]
    torch.stack([(one * other).sum() for one, other in zip(results, downstream, strict=True)]).sum().backward()
    gradients = [leaf.grad for leaf in leaves] + [parameter.grad.clone() for parameter in lstm.parameters()]
    return [tensor.detach().double() for tensor in (*results, *gradients)]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    steps=st.integers(1, 7),
    inputs=st.integers(1, 11),
    size=st.integers(1, 17),
    layers=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 1000),
)
def test_values_states_and_all_gradients_equal_those_of_the_textbook(rows, steps, inputs, size, layers, share, seed):
    generator = torch.Generator().manual_seed(seed)
    lstm = nn.LSTM(inputs, size, num_layers=layers, batch_first=True)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.uniform_(-0.8, 0.8, generator=generator)
    x = torch.randn(rows, steps, inputs, generator=generator)
    state = RecurrentState(tuple(torch.randn(rows, layers, size, generator=generator) for _ in range(2)))
    resets = torch.rand(rows, steps, generator=generator) < share
    shapes = ((rows, steps, size), (rows, layers, size), (rows, layers, size))
    downstream = [torch.randn(shape, generator=generator) for shape in shapes]
    fast = results(cpu_lstm, lstm, x, state, resets, downstream)
    exact_state = RecurrentState(tuple(tensor.double() for tensor in state.tensors))
    exact = results(textbook, lstm.double(), x.double(), exact_state, resets, [d.double() for d in downstream])
    for one, other in zip(fast, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_states_that_carry_no_gradient_and_inputs_that_need_none():
    lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)
    state = RecurrentState((torch.randn(5, 2, 4), torch.randn(5, 2, 4)))
    inputs, resets = torch.randn(5, 6, 3), torch.zeros(5, 6, dtype=torch.bool)
    fast, plain = (
        torch.autograd.grad(run(lstm, inputs, state, resets)[0].square().sum(), list(lstm.parameters()))
        for run in (cpu_lstm, textbook)
    )
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_large_sums_saturate_and_what_is_not_finite_stays_so():
    lstm = nn.LSTM(1, 2, batch_first=True)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.fill_(1.0)
        inputs = torch.tensor([[[1e30]], [[-1e30]], [[float("nan")]]])
        state, resets = (
            RecurrentState((torch.zeros(3, 1, 2), torch.zeros(3, 1, 2))),
            torch.zeros(3, 1, dtype=torch.bool),
        )
        outputs, after = cpu_lstm(lstm, inputs, state, resets)
    torch.testing.assert_close(after.tensors[1][:2, 0, 0], torch.tensor([1.0, 0.0]), rtol=0, atol=1e-6)
    assert outputs[:2].isfinite().all() and outputs[2].isnan().all()


def test_a_reset_stops_what_is_not_finite():
    """Zeroed, not multiplied by zero: 0 * nan would stay."""
    lstm = nn.LSTM(2, 3, batch_first=True)
    inputs, resets = torch.zeros(1, 2, 2), torch.tensor([[False, True]])
    inputs[0, 0] = float("nan")
    state = RecurrentState((torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
    outputs, _ = cpu_lstm(lstm, inputs, state, resets)
    assert outputs[0, 0].isnan().all() and outputs[0, 1].isfinite().all()


@pytest.mark.parametrize(
    "options", [{"bias": False}, {"bidirectional": True}, {"proj_size": 2}, {"dropout": 0.5, "num_layers": 2}]
)
def test_other_kinds_of_lstm_are_left_to_torch(options):
    inputs = torch.zeros(1, 1, 3)
    assert suits_cpu_lstm(nn.LSTM(3, 4), inputs)
    assert not suits_cpu_lstm(nn.LSTM(3, 4, **options), inputs)


def test_other_precisions_and_sizes_are_left_to_torch():
    lstm = nn.LSTM(3, 4)
    assert suits_cpu_lstm(lstm, torch.zeros(1, 1, 3))
    assert not suits_cpu_lstm(lstm, torch.zeros(1, 1, 3, dtype=torch.bfloat16))
    assert not suits_cpu_lstm(lstm, torch.zeros(1, 1, 3, dtype=torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not suits_cpu_lstm(lstm, torch.zeros(1, 1, 3))
        assert suits_cpu_lstm(nn.LSTM(32, 64), torch.zeros(1, 1, 32)) == multiplies(torch.bfloat16)
        assert not suits_cpu_lstm(nn.LSTM(32, 60), torch.zeros(1, 1, 32))
        assert not suits_cpu_lstm(nn.LSTM(60, 32), torch.zeros(1, 1, 60))
    with torch.autocast("cpu", dtype=torch.float16):
        assert not suits_cpu_lstm(nn.LSTM(32, 64), torch.zeros(1, 1, 32))


needs_tiles = pytest.mark.skipif(
    not multiplies(torch.bfloat16), reason="this CPU has no tiles to multiply bfloat16 with (AMX)"
)


def torchs(lstm, inputs, state, resets):
    """Step by step with torch's own LSTM, whose state is bfloat16 between two calls."""
    outputs = []
    for step, opens in enumerate(resets.unbind(1)):
        hidden, cells = (tensor.transpose(0, 1).contiguous() for tensor in state.zero_where(opens).tensors)
        output, after = lstm(inputs[:, step : step + 1], (hidden, cells))
        state = RecurrentState(tuple(tensor.transpose(0, 1).float() for tensor in after))
        outputs.append(output)
    return torch.cat(outputs, dim=1), state


def lstm_for_tiles(generator, inputs=32, size=64):
    lstm = nn.LSTM(inputs, size, num_layers=2, batch_first=True)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.uniform_(-0.3, 0.3, generator=generator)
    return lstm


@needs_tiles
@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 30, 150])
def test_in_bfloat16_everything_is_as_exact_as_torchs(input_dtype, rows):
    """Values, states and all gradients, against the textbook in float64; 150 rows are more than one block."""
    generator = torch.Generator().manual_seed(rows)
    lstm = lstm_for_tiles(generator)
    inputs = torch.randn(rows, 20, 32, generator=generator).bfloat16()
    resets = torch.rand(rows, 20, generator=generator) < 0.1
    state = RecurrentState(tuple(torch.randn(rows, 2, 64, generator=generator).bfloat16().float() for _ in range(2)))
    shapes = ((rows, 20, 64), (rows, 2, 64), (rows, 2, 64))
    downstream = [torch.randn(shape, generator=generator) for shape in shapes]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = results(cpu_lstm, lstm, inputs.to(input_dtype), state, resets, downstream)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        other = results(torchs, lstm, inputs.to(input_dtype), state, resets, downstream)
    exact_state = RecurrentState(tuple(tensor.double() for tensor in state.tensors))
    exact = results(textbook, lstm.double(), inputs.double(), exact_state, resets, [d.double() for d in downstream])
    for number, (one, two, truth) in enumerate(zip(fast, other, exact, strict=True)):
        error, torchs_error = (one - truth).abs().mean(), (two - truth).abs().mean()
        assert 0 < error < 1.5 * torchs_error + 1e-4, (number, error, torchs_error)
        assert error < 0.05 * truth.abs().mean() + 1e-4, (number, error, truth.abs().mean())


@needs_tiles
def test_in_bfloat16_a_step_at_a_time_gives_what_all_at_once_do():
    generator = torch.Generator().manual_seed(0)
    lstm = lstm_for_tiles(generator)
    inputs, resets = torch.randn(9, 6, 32, generator=generator), torch.rand(9, 6, generator=generator) < 0.3
    first = state = RecurrentState(tuple(torch.randn(9, 2, 64, generator=generator) for _ in range(2)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        at_once, last = cpu_lstm(lstm, inputs, first, resets)
        outputs = []
        for step in range(6):
            output, state = cpu_lstm(lstm, inputs[:, step : step + 1], state, resets[:, step : step + 1])
            outputs.append(output)
    assert torch.equal(torch.cat(outputs, dim=1), at_once) and at_once.dtype == torch.bfloat16
    for one, other in zip(state.tensors, last.tensors, strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float32
