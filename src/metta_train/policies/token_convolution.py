"""The first convolution straight from tokens: an observation has a few dozen of them, its box thousands of zeros.

A convolution of a box that is zero but for its tokens is, for every output cell, the sum of value * weights[:, channel,
place in the kernel] over the tokens under the kernel. docs/benchmarks.md has the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta_train.policies.convolution import convolved_side
from metta_train.policies.held_weights import held
from metta_train.policies.kernels import tokens as token_kernels
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.observation import PlacedTokens, TokenBox
from metta_train.policies.watched import takes_cpu_kernels


def convolve_tokens(
    convolution: nn.Conv2d, activation: Callable[[Tensor], Tensor] | None, box: TokenBox, tokens: Tensor
) -> Tensor:
    """`activation(convolution(box(tokens)))` for tokens `[N, M, 3]`; on the CPU without drawing the box."""
    if not _has_plain_windows(convolution) or not takes_cpu_kernels(tokens, convolution, box):
        outputs = convolution(box(tokens))
    else:
        relu = activation is functional.relu
        outputs = convolve_placed_tokens(convolution, box.placed_tokens(tokens), box.window, relu=relu)
        if relu:
            return outputs
    return outputs if activation is None else activation(outputs)


def convolve_placed_tokens(
    convolution: nn.Conv2d, tokens: PlacedTokens, window: tuple[int, int], *, relu: bool
) -> Tensor:
    """The same from tokens that are looked up already: `[N, out_channels, height', width']`, channels-last."""
    (kernel, _), (stride, _) = convolution.kernel_size, convolution.stride
    height, width = (convolved_side(side, kernel, stride) for side in window)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    assert convolution.bias is not None, "a convolution without bias goes another way"
    inputs = (convolution.weight, convolution.bias, tokens, height, width, stride, relu, dtype)
    out = _TokenConvolution.apply(*inputs) if torch.is_grad_enabled() else _convolved(*inputs)
    assert isinstance(out, Tensor)
    return out.permute(0, 3, 1, 2)


def _has_plain_windows(convolution: nn.Conv2d) -> bool:
    square = len(set(convolution.kernel_size)) == 1 and len(set(convolution.stride)) == 1
    plain = convolution.padding == (0, 0) and convolution.dilation == (1, 1) and convolution.groups == 1
    return square and plain and convolution.bias is not None


def _by_place(weight: Tensor) -> Tensor:
    """`[k, k, in, out]` of `[out, in, k, k]`."""
    return weight.detach().permute(2, 3, 1, 0).contiguous()


def _convolved(
    weight: Tensor,
    bias: Tensor,
    tokens: PlacedTokens,
    height: int,
    width: int,
    stride: int,
    relu: bool,
    dtype: torch.dtype,
) -> Tensor:
    out = weight.new_empty(len(tokens.ends), height, width, weight.shape[0], dtype=dtype)
    by_place = held(_by_place, weight)
    places = (tokens.places, tokens.values, tokens.ends)
    token_kernels.convolve_places(*places, numbers_of(by_place), numbers_of(bias), stride, relu, numbers_of(out))
    return out


class _TokenConvolution(torch.autograd.Function):
    """`[N, height, width, out_channels]`, float32 or bfloat16; the tokens have no gradient."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        *inputs: Any,  # noqa: ANN401  # of `_convolved`; autograd functions take no keywords
    ) -> Tensor:
        out = _convolved(*inputs)
        weight, _, tokens, _, _, stride, relu, _ = inputs
        ctx.save_for_backward(out)
        ctx.tokens, ctx.weight_shape, ctx.stride, ctx.relu = tokens, weight.shape, stride, relu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (out,) = ctx.saved_tensors
        out_channels, in_channels, kernel, _ = ctx.weight_shape
        grad_weight = torch.zeros(kernel, kernel, in_channels, out_channels)
        grad_bias = torch.zeros(out_channels)
        tensors = (out, grad.contiguous(), grad_weight, grad_bias)
        places = (ctx.tokens.places, ctx.tokens.values, ctx.tokens.ends)
        token_kernels.through_places(*places, ctx.stride, ctx.relu, *map(numbers_of, tensors))
        return grad_weight.permute(3, 2, 0, 1).contiguous(), grad_bias, None, None, None, None, None, None
