import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metta_train.policies.convolution import convolved_side


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
