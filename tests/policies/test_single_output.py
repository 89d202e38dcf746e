"""The weighted sum against its slow twin, torch's linear layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metta_train.policies.single_output import single_output


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
