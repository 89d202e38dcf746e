import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

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
def test_a_kernel_that_covers_its_input_equals_torchs_convolution(size):
    """(3, 3) is one product of matrices; the other sizes are torch's own."""
    torch.manual_seed(0)
    layer = Conv2d(4, 6, kernel_size=3)
    inputs = torch.randn(5, 4, *size)
    seen = []
    for function in (layer, lambda x: torch.nn.functional.conv2d(x, layer.weight, layer.bias)):
        leaf = inputs.clone().requires_grad_()
        layer.zero_grad()
        output = function(leaf)
        output.square().sum().backward()
        seen.append([output.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 3), (3, 4)])
@pytest.mark.parametrize("activation", [torch.relu, torch.nn.functional.relu, torch.tanh])
def test_with_an_activation_behind_it_it_equals_torchs(size, activation):
    torch.manual_seed(0)
    layer = Conv2d(4, 6, kernel_size=3)
    inputs = torch.randn(5, 4, *size).to(memory_format=torch.channels_last)
    seen = []
    plain = lambda x: activation(torch.nn.functional.conv2d(x, layer.weight, layer.bias))  # noqa: E731
    for function in (lambda x: activated_convolution(layer, activation, x), plain):
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
