"""Convolutions over boxes, and the output sizes of convolutions and pools."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta_train.policies.activated_linear import activated_product, has_kernels
from metta_train.policies.held_weights import held
from metta_train.policies.watched import is_watched, takes_cpu_kernels


class Conv2d(nn.Conv2d):
    """torch's convolution; where the kernel covers the whole input it is one matrix product, which is faster."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.is_product(input):
            return super().forward(input)
        return functional.linear(_rows(input), self.matrix(), self.bias)[:, :, None, None]

    def is_product(self, inputs: Tensor) -> bool:
        """Whether every output sees all of `inputs`."""
        covers = inputs.shape[2:] == self.kernel_size and self.padding == (0, 0) and self.dilation == (1, 1)
        return covers and self.groups == 1 and not is_watched(self)

    def matrix(self) -> Tensor:
        """`[out_channels, height * width * in_channels]`, channels last."""
        return _matrix(self.weight) if torch.is_grad_enabled() else held(_matrix, self.weight)


def activated_convolution(convolution: nn.Conv2d, activation: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`activation(convolution(inputs))` for inputs `[N, C, height, width]`."""
    if not isinstance(convolution, Conv2d) or not convolution.is_product(inputs) or convolution.bias is None:
        return activation(convolution(inputs))
    if not has_kernels(activation) or not takes_cpu_kernels(inputs):
        return activation(convolution(inputs))
    return activated_product(_rows(inputs), convolution.matrix(), convolution.bias, activation)[:, :, None, None]


def _rows(inputs: Tensor) -> Tensor:
    """Channels last, as convolve_tokens leaves them: no copy."""
    return inputs.permute(0, 2, 3, 1).flatten(1)


def _matrix(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).flatten(1)


def convolved_side(side: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Cells along one side after a convolution or pool; sizes floor, as in torch.

    Raises:
        ValueError: the kernel is larger than the padded side.
    """
    reach = dilation * (kernel_size - 1) + 1
    if side + 2 * padding < reach:
        raise ValueError(
            f"a kernel of {kernel_size} does not fit a side of {side} cells (padding {padding}, dilation {dilation})"
        )
    return (side + 2 * padding - reach) // stride + 1
