"""The first convolution straight from tokens: an observation has a few dozen of them, its box thousands of zeros.

A convolution of a box that is zero but for its tokens is, for every output cell, the sum of value * weights[:, channel,
place in the kernel] over the tokens under the kernel. docs/benchmarks.md has the measurement.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metta_train.policies import cpu_kernels
from metta_train.policies.convolution import convolved_side
from metta_train.policies.observation import PlacedTokens, TokenBox
from metta_train.policies.watched import is_watched


def convolve_tokens(convolution: nn.Conv2d, box: TokenBox, tokens: Tensor) -> Tensor:
    """`convolution(box(tokens))` for tokens `[N, M, 3]`; on the CPU without drawing the box."""
    if tokens.device.type != "cpu" or not _has_plain_windows(convolution) or is_watched(convolution, box):
        return convolution(box(tokens))
    return convolve_placed_tokens(convolution, box.placed_tokens(tokens), box.window)


def convolve_placed_tokens(convolution: nn.Conv2d, tokens: PlacedTokens, window: tuple[int, int]) -> Tensor:
    """The same from tokens that are looked up already: `[N, out_channels, height', width']`, channels-last."""
    (kernel, _), (stride, _) = convolution.kernel_size, convolution.stride
    height, width = (convolved_side(side, kernel, stride) for side in window)
    out = _TokenConvolution.apply(convolution.weight, convolution.bias, tokens, height, width, stride)
    assert isinstance(out, Tensor)
    return out.permute(0, 3, 1, 2)


def _has_plain_windows(convolution: nn.Conv2d) -> bool:
    square = len(set(convolution.kernel_size)) == 1 and len(set(convolution.stride)) == 1
    plain = convolution.padding == (0, 0) and convolution.dilation == (1, 1) and convolution.groups == 1
    return square and plain and convolution.bias is not None


class _TokenConvolution(torch.autograd.Function):
    """`[N, height, width, out_channels]`; the tokens have no gradient."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        weight: Tensor,
        bias: Tensor,
        tokens: PlacedTokens,
        height: int,
        width: int,
        stride: int,
    ) -> Tensor:
        out = weight.new_empty(len(tokens.ends), height, width, weight.shape[0])
        by_place = weight.permute(2, 3, 1, 0).contiguous().numpy()
        cpu_kernels.convolve_places(
            tokens.places, tokens.values, tokens.ends, by_place, bias.numpy(), stride, out.numpy()
        )
        ctx.tokens, ctx.weight_shape, ctx.stride = tokens, weight.shape, stride
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tokens = ctx.tokens
        out_channels, in_channels, kernel, _ = ctx.weight_shape
        grad_weight = grad.new_zeros(kernel, kernel, in_channels, out_channels)
        grad_bias = grad.new_zeros(out_channels)
        cpu_kernels.convolve_places_gradient(
            tokens.places,
            tokens.values,
            tokens.ends,
            ctx.stride,
            grad.contiguous().numpy(),
            grad_weight.numpy(),
            grad_bias.numpy(),
        )
        return grad_weight.permute(3, 2, 0, 1).contiguous(), grad_bias, None, None, None, None
