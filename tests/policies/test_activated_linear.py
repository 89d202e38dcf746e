"""The fused linear layer against its slow twin: torch's layer, then torch's activation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from metta_train.policies.activated_linear import activated_linear
from metta_train.policies.kernels.dense import activated
from metta_train.policies.kernels.numbers import numbers_of

ACTIVATIONS = [functional.relu, torch.tanh]


def results(run, linear, inputs, downstream):
    """Values and gradients."""
    linear.zero_grad()
    leaf = inputs.clone().requires_grad_()
    outputs = run(leaf)
    (outputs.float() * downstream).sum().backward()
    return [outputs.detach().float(), leaf.grad, linear.weight.grad.clone(), linear.bias.grad.clone()]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70), size_in=st.integers(1, 40), size_out=st.integers(1, 70), scale=st.sampled_from([0.1, 5])
)
def test_values_and_gradients_equal_those_of_torch(activation, rows, size_in, size_out, scale):
    torch.manual_seed(0)
    linear = nn.Linear(size_in, size_out)
    inputs, downstream = torch.randn(rows, size_in) * scale, torch.randn(rows, size_out)
    fused = results(lambda x: activated_linear(linear, activation, x), linear, inputs, downstream)
    plain = results(lambda x: activation(linear(x)), linear, inputs, downstream)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=5e-5)
    with torch.no_grad():  # in a kernel with its product
        torch.testing.assert_close(activated_linear(linear, activation, inputs), plain[0], rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "size_in", "size_out"), [(64, 128, 256), (150, 96, 32), (1, 32, 64), (64, 100, 256)])
def test_under_autocast_it_is_as_exact_as_torch(activation, rows, size_in, size_out):
    """Against the layer in float32; sizes that are no multiples of 32 do not fit into tiles."""
    torch.manual_seed(0)
    linear = nn.Linear(size_in, size_out)
    inputs, downstream = torch.randn(rows, size_in), torch.randn(rows, size_out)

    def autocast(run):
        def inside(x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = run(x)
            assert outputs.dtype == torch.bfloat16
            return outputs

        return results(inside, linear, inputs, downstream)

    exact = results(lambda x: activation(linear(x)), linear, inputs, downstream)
    fused = autocast(lambda x: activated_linear(linear, activation, x))
    plain = autocast(lambda x: activation(linear(x)))
    for one, other, truth in zip(fused, plain, exact, strict=True):
        assert 0 < (one - truth).abs().mean() < 1.5 * (other - truth).abs().mean() + 1e-4
        assert (one - truth).abs().mean() < 0.03 * truth.abs().mean()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [3, 32])
def test_what_is_not_finite_stays_so(activation, dtype, size):
    linear = nn.Linear(size, size)
    inputs = torch.ones(2, size)
    inputs[0, 1] = math.nan
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs = activated_linear(linear, activation, inputs)
    assert outputs.dtype == dtype
    assert outputs[0].isnan().all() and outputs[1].isfinite().all()
    outputs.float().sum().backward()
    assert linear.weight.grad is not None and linear.weight.grad[:, 1].isnan().all()


def test_tanh_is_exact_to_4e_7_everywhere():
    values = np.concatenate([np.linspace(-12, 12, 400_001), [0.0, 1e-30, -1e-30, 1e30, -1e30, np.inf, -np.inf]])
    single = values.astype(np.float32)
    result = single[None].copy()
    activated(False, result, np.zeros_like(single))
    assert np.abs(result[0] - np.tanh(single.astype(np.float64))).max() < 4e-7
    assert np.abs(result).max() <= 1.0


def test_bfloat16_is_rounded_as_torch_does():
    values = torch.cat([torch.randn(5000) * 10.0**exponent for exponent in range(-6, 7)]).abs()
    bits = torch.zeros(1, len(values), dtype=torch.bfloat16)
    activated(True, numbers_of(bits), values.numpy())
    assert torch.equal(bits[0], values.bfloat16())


def test_hooks_other_activations_and_layers_without_bias_take_the_layer_itself():
    inputs = torch.randn(5, 3)
    linear = nn.Linear(3, 4)
    assert torch.equal(activated_linear(linear, functional.elu, inputs), functional.elu(linear(inputs)))
    bare = nn.Linear(3, 4, bias=False)
    assert torch.equal(activated_linear(bare, torch.tanh, inputs), torch.tanh(bare(inputs)))
    heard = []
    linear.register_forward_hook(lambda *_: heard.append(1))
    assert torch.equal(activated_linear(linear, torch.tanh, inputs), torch.tanh(linear(inputs)))
    assert len(heard) == 2


def test_inputs_that_need_no_gradient_and_inputs_that_are_no_rows_of_memory():
    """The first layer of a network, and inputs that somebody cut out of wider ones."""
    torch.manual_seed(0)
    linear, wide = nn.Linear(32, 64), torch.randn(70, 64)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = activated_linear(linear, torch.tanh, wide[:, 32:])
        (gradient,) = torch.autograd.grad(outputs.float().sum(), [linear.weight])
        plain = torch.tanh(linear(wide[:, 32:]))
        (expected,) = torch.autograd.grad(plain.sum(), [linear.weight])
        torch.testing.assert_close(outputs.float(), plain, rtol=0.02, atol=0.02)
        torch.testing.assert_close(gradient, expected, rtol=0.02, atol=0.2)


def test_without_gradients_the_outputs_are_the_same():
    torch.manual_seed(0)
    linear, inputs = nn.Linear(64, 96), torch.randn(130, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = activated_linear(linear, torch.tanh, inputs)
        with torch.no_grad():
            assert torch.equal(activated_linear(linear, torch.tanh, inputs), outputs)
