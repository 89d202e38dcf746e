from __future__ import annotations

from contextlib import nullcontext

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import profile

from metta_train.policies.initialization import LstmBiasMode
from metta_train.policies.recurrence import lstm_initial_values, outputs_alone, run_lstm
from metta_train.policies.watched import recorded
from metta_train.specs.recurrent_state import RecurrentState


def make(rows: int, steps: int, seed: int = 0) -> tuple[nn.LSTM, torch.Tensor, RecurrentState]:
    generator = torch.Generator().manual_seed(seed)
    lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    inputs = torch.randn(rows, steps, 3, generator=generator)
    state = RecurrentState(tuple(torch.randn(rows, 2, 4, generator=generator) for _ in range(2)))
    return lstm, inputs, state


def step_by_step(lstm, inputs, state, resets):
    """The definition: zero, then one step, for each row alone."""
    outputs = torch.zeros(*inputs.shape[:2], lstm.hidden_size)
    final = [torch.zeros_like(t) for t in state.tensors]
    for row in range(inputs.shape[0]):
        hidden, cell = (t[row].unsqueeze(1) for t in state.tensors)
        for step in range(inputs.shape[1]):
            if resets[row, step]:
                hidden, cell = torch.zeros_like(hidden), torch.zeros_like(cell)
            output, (hidden, cell) = lstm(inputs[row : row + 1, step : step + 1], (hidden, cell))
            outputs[row, step] = output[0, 0]
        final[0][row], final[1][row] = hidden[:, 0], cell[:, 0]
    return outputs, RecurrentState(tuple(final))


def assert_same(first, second):
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=1e-6)
    for one, other in zip(first[1].tensors, second[1].tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from(["unseen", "watched", "recorded"]), st.data())
def test_any_resets_give_what_the_definition_gives(rows, steps, how, data):
    flags = st.lists(st.lists(st.booleans(), min_size=steps, max_size=steps), min_size=rows, max_size=rows)
    resets = torch.tensor(data.draw(flags))
    lstm, inputs, state = make(rows, steps)
    if how == "watched":
        lstm.register_forward_hook(lambda *_: None)
    with torch.no_grad(), recorded() if how == "recorded" else nullcontext():
        assert_same(run_lstm(lstm, inputs, state, resets), step_by_step(lstm, inputs, state, resets))


def test_one_call_equals_single_steps_and_leaves_the_state_it_was_given():
    lstm, inputs, state = make(4, 7)
    resets = torch.zeros(4, 7, dtype=torch.bool)
    resets[1, 3] = resets[2, 0] = resets[2, 6] = True
    before = [t.clone() for t in state.tensors]
    with torch.no_grad():
        whole = run_lstm(lstm, inputs, state, resets)
        carried, outputs = state, []
        for step in range(7):
            one = slice(step, step + 1)
            output, carried = run_lstm(lstm, inputs[:, one], carried, resets[:, one])
            outputs.append(output)
    assert_same(whole, (torch.cat(outputs, dim=1), carried))
    assert all(torch.equal(one, other) for one, other in zip(before, state.tensors, strict=True))


def test_gradients_through_the_split_equal_those_of_the_definition():
    lstm, inputs, state = make(4, 5)
    resets = torch.zeros(4, 5, dtype=torch.bool)
    resets[0, 2] = resets[3, 4] = True
    inputs.requires_grad_()
    gradients = []
    for function in (run_lstm, step_by_step):
        lstm.zero_grad()
        inputs.grad = None
        outputs, after = function(lstm, inputs, state, resets)
        (outputs.square().sum() + after.tensors[1].sum()).backward()
        gradients.append([inputs.grad, *(p.grad.clone() for p in lstm.parameters() if p.grad is not None)])
    assert len(gradients[0]) == 1 + 8
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_where_only_outputs_are_read_they_and_their_gradients_are_those_of_the_definition(rows, steps, data):
    """In float64, which no kernel of ours takes, what follows a reset runs in a row of its own."""
    flags = st.lists(st.lists(st.booleans(), min_size=steps, max_size=steps), min_size=rows, max_size=rows)
    resets = torch.tensor(data.draw(flags))
    lstm, inputs, state = make(rows, steps)
    lstm, inputs = lstm.double(), inputs.double().requires_grad_()
    state = RecurrentState(tuple(tensor.double().requires_grad_() for tensor in state.tensors))
    downstream = torch.randn(rows, steps, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [inputs, *state.tensors, *lstm.parameters()]
    found = []
    for function, reader in ((run_lstm, outputs_alone()), (step_by_step, nullcontext())):
        with reader:
            outputs, after = function(lstm, inputs, state, resets)
        gradients = torch.autograd.grad((outputs * downstream).sum(), leaves, materialize_grads=True)
        found.append([outputs.detach().double(), *(gradient.double() for gradient in gradients)])
        if function is run_lstm and steps > 1:
            assert all(tensor.isnan().all() for tensor in after.tensors), "nobody shall read it"
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_training_costs_one_call_however_many_rows_reset():
    lstm, inputs, state = make(6, 5)
    resets = torch.zeros(6, 5, dtype=torch.bool)
    resets[0, 2] = resets[1, 3] = resets[1, 4] = resets[5, 1] = True
    with torch.autocast("cpu", dtype=torch.bfloat16), outputs_alone(), profile(acc_events=True) as seen:
        outputs, _ = run_lstm(lstm, inputs, state, resets)
    assert sum(event.count for event in seen.key_averages() if event.key == "aten::lstm") == 1
    with torch.no_grad():
        exact = step_by_step(lstm, inputs, state, resets)[0]
    torch.testing.assert_close(outputs.float(), exact, rtol=0, atol=0.02)


def test_nothing_flows_back_over_a_reset():
    lstm, inputs, state = make(2, 4)
    inputs.requires_grad_()
    resets = torch.zeros(2, 4, dtype=torch.bool)
    resets[0, 2] = True
    outputs, _ = run_lstm(lstm, inputs, state, resets)
    outputs[:, 3].sum().backward()
    assert inputs.grad is not None
    assert inputs.grad[0, :2].abs().max() == 0
    assert inputs.grad[1, :2].abs().max() > 0


def test_bias_modes():
    totals: dict[LstmBiasMode, float] = {"forget": 4.0, "ones": 2 * 16.0, "zeros": 0.0}
    for mode, total in totals.items():
        values = lstm_initial_values(num_layers=1, bias_init=mode)
        biases = {name: torch.empty(16) for name in ("bias_ih_l0", "bias_hh_l0")}
        for name, bias in biases.items():
            values[name].fill(bias, torch.Generator())
        assert sum(bias.sum().item() for bias in biases.values()) == total
    assert list(lstm_initial_values(2, "forget")) == [
        f"{kind}_l{layer}" for layer in (0, 1) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
