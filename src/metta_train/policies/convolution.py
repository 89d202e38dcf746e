"""Convolutions over boxes, and the output sizes of convolutions and pools."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from metta_train.policies.watched import is_watched


class Conv2d(nn.Conv2d):
    """torch's convolution; where the kernel covers the whole input it is one matrix product, which is faster."""

    def forward(self, input: Tensor) -> Tensor:
        covers = input.shape[2:] == self.kernel_size and self.padding == (0, 0) and self.dilation == (1, 1)
        if not covers or self.groups > 1 or is_watched(self):
            return super().forward(input)
        # Channels last, as convolve_tokens leaves them: no copy of the input.
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(input.permute(0, 2, 3, 1).flatten(1), weight, self.bias)[:, :, None, None]


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
