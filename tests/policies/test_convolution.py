from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from metta_train.policies.convolution import Conv2d, activated_convolution, convolved_side
from metta_train.policies.held_weights import weights_held


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 15), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3))
def test_sides_are_those_of_torch_or_refused_as_torch_does(side, kernel_size, stride, padding, dilation):
    layer = nn.Conv2d(1, 1, kernel_size, stride, padding, dilation)
    try:
        expected = layer(torch.zeros(1, 1, side, side)).shape[-1]
    except RuntimeError:
        with pytest.raises(ValueError, match=f"a kernel of {kernel_size} does not fit a side of {side} cells"):
            convolved_side(side, kernel_size, stride, padding, dilation)
    else:
        assert convolved_side(side, kernel_size, stride, padding, dilation) == expected


@pytest.mark.parametrize("size", [(3, 3), (3, 4), (5, 3)])
@pytest.mark.parametrize("activation", [None, torch.relu, functional.relu, torch.tanh, functional.gelu])
def test_with_and_without_an_activation_behind_it_it_equals_torchs(size, activation):
    """For inputs of (3, 3) it is one product of matrices; the other sizes are torch's own."""
    torch.manual_seed(0)
    layer = Conv2d(4, 6, kernel_size=3)
    inputs = torch.randn(5, 4, *size).to(memory_format=torch.channels_last)

    def plain(x):
        outputs = functional.conv2d(x, layer.weight, layer.bias)
        return outputs if activation is None else activation(outputs)

    fast = layer if activation is None else partial(activated_convolution, layer, activation)
    seen = []
    for function in (fast, plain):
        leaf = inputs.clone().requires_grad_()
        layer.zero_grad()
        output = function(leaf)
        output.square().sum().backward()
        seen.append([output.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_matrix_of_a_convolution_is_made_once_while_weights_are_held():
    layer = Conv2d(4, 6, kernel_size=3)
    with torch.no_grad(), weights_held():
        assert layer.matrix() is layer.matrix()
    assert layer.matrix().requires_grad
