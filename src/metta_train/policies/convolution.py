"""Output sizes of convolutions and pools."""

from __future__ import annotations


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
