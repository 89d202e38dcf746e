"""The weighted sum against its slow twin, torch's linear layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from metta_train.policies.single_output import single_output, single_output_behind


def results(run, linear, inputs, downstream):
    """Values and gradients."""
    linear.zero_grad()
    leaf = inputs.clone().requires_grad_()
    outputs = run(leaf)
    (outputs.float() * downstream).sum().backward()
    return [outputs.detach().float(), leaf.grad, linear.weight.grad.clone(), linear.bias.grad.clone()]


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 70), size=st.integers(1, 200))
def test_values_and_gradients_equal_those_of_torch(rows, size):
    torch.manual_seed(0)
    linear = nn.Linear(size, 1)
    inputs, downstream = torch.randn(rows, size), torch.randn(rows, 1)
    fast = results(lambda x: single_output(linear, x), linear, inputs, downstream)
    for one, other in zip(fast, results(linear, linear, inputs, downstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
    with torch.no_grad():
        assert torch.equal(single_output(linear, inputs), fast[0])


def results_of_both(run, layers, inputs, downstream):
    """Values and gradients of two layers."""
    layers.zero_grad()
    leaf = inputs.clone().requires_grad_()
    outputs = run(leaf)
    (outputs.float() * downstream).sum().backward()
    return [outputs.detach().float(), leaf.grad, *(parameter.grad.clone() for parameter in layers.parameters())]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    inputs=st.integers(1, 20),
    size=st.integers(1, 200),
    activation=st.sampled_from([torch.tanh, functional.relu, torch.relu, functional.gelu]),
)
def test_with_the_layer_before_it_values_and_gradients_equal_those_of_torch(rows, inputs, size, activation):
    torch.manual_seed(0)
    hidden, linear = nn.Linear(inputs, size), nn.Linear(size, 1)
    layers = nn.ModuleList([hidden, linear])
    x, downstream = torch.randn(rows, inputs), torch.randn(rows, 1)
    fast = results_of_both(lambda x: single_output_behind(linear, hidden, activation, x), layers, x, downstream)
    plain = results_of_both(lambda x: linear(activation(hidden(x))), layers, x, downstream)
    assert len(fast) == 6
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=3e-5)
    with torch.no_grad():  # in a kernel with its product, and the hidden layer is not kept
        torch.testing.assert_close(single_output_behind(linear, hidden, activation, x), plain[0], rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("activation", [torch.tanh, functional.relu])
@pytest.mark.parametrize(("rows", "size"), [(40, 512), (150, 64), (40, 500)])
def test_with_the_layer_before_it_under_autocast_it_is_about_as_exact_as_torch(activation, rows, size):
    """500 is no multiple of 32 and does not fit into tiles."""
    torch.manual_seed(0)
    hidden, linear = nn.Linear(128, size), nn.Linear(size, 1)
    layers = nn.ModuleList([hidden, linear])
    inputs, downstream = torch.randn(rows, 128), torch.randn(rows, 1)

    def under_autocast(run):
        def inside(x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return run(x)

        return results_of_both(inside, layers, inputs, downstream)

    exact = results_of_both(lambda x: linear(activation(hidden(x))), layers, inputs, downstream)
    fast = under_autocast(lambda x: single_output_behind(linear, hidden, activation, x))
    plain = under_autocast(lambda x: linear(activation(hidden(x))))
    for one, other, truth in zip(fast, plain, exact, strict=True):
        assert (one - truth).abs().mean() <= 1.5 * (other - truth).abs().mean() + 1e-6
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(single_output_behind(linear, hidden, activation, inputs), fast[0])


def test_hooks_on_either_layer_are_heard():
    inputs = torch.randn(5, 3)
    hidden, linear, heard = nn.Linear(3, 4), nn.Linear(4, 1), []
    hidden.register_forward_hook(lambda *_: heard.append("hidden"))
    linear.register_forward_hook(lambda *_: heard.append("linear"))
    outputs = single_output_behind(linear, hidden, torch.tanh, inputs)
    assert heard == ["hidden", "linear"]
    torch.testing.assert_close(outputs, linear(torch.tanh(hidden(inputs))))


def test_under_autocast_it_is_more_exact_than_torch():
    torch.manual_seed(0)
    linear = nn.Linear(512, 1)
    inputs, downstream = torch.randn(40, 512).bfloat16().float(), torch.randn(40, 1)
    exact = results(linear, linear, inputs, downstream)

    def under_autocast(run):
        def inside(x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return run(x)

        return results(inside, linear, inputs, downstream)

    fast, plain = under_autocast(lambda x: single_output(linear, x)), under_autocast(linear)
    for one, other, truth in zip(fast, plain, exact, strict=True):
        assert (one - truth).abs().mean() <= (other - truth).abs().mean() + 1e-6
    assert (fast[0] - exact[0]).abs().max() < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value):
    linear = nn.Linear(3, 1)
    outputs = single_output(linear, torch.tensor([[1.0, value, 0.0], [1.0, 2.0, 3.0]]))
    assert not outputs[0].isfinite().any() and outputs[1].isfinite().all()


def test_hooks_and_layers_without_bias_take_the_layer_itself():
    inputs = torch.randn(5, 3)
    bare = nn.Linear(3, 1, bias=False)
    assert torch.equal(single_output(bare, inputs), bare(inputs))
    linear, heard = nn.Linear(3, 1), []
    linear.register_forward_hook(lambda *_: heard.append(1))
    single_output(linear, inputs)
    assert heard == [1]
