"""The first convolution straight from tokens: an observation has a few dozen of them, its box thousands of zeros.

A convolution of a box that is zero but for its tokens is, for every output cell, the sum of value * weights[:, channel,
place in the kernel] over the tokens under the kernel: a weighted embedding bag. Output rows share their tokens, so one
bag is one output row: its table holds, for each (kernel row, column of the box, channel), what a token there adds to
every cell of the output row. docs/benchmarks.md has the measurement.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metta_train.policies.convolution import convolved_side
from metta_train.policies.observation import DrawnTokens, TokenBox
from metta_train.policies.watched import is_watched

# Below, building the table costs more than the box; measured: docs/benchmarks.md.
MIN_ROWS = 64


def convolve_tokens(convolution: nn.Conv2d, box: TokenBox, tokens: Tensor) -> Tensor:
    """`convolution(box(tokens))` for tokens `[N, M, 3]`; on the CPU without drawing the box."""
    if (
        tokens.device.type != "cpu"
        or tokens.shape[0] < MIN_ROWS
        or not _has_plain_windows(convolution)
        or is_watched(convolution, box)
    ):
        return convolution(box(tokens))
    return convolve_drawn_tokens(convolution, box.drawn_tokens(tokens), box.window)


def convolve_drawn_tokens(convolution: nn.Conv2d, tokens: DrawnTokens, window: tuple[int, int]) -> Tensor:
    """The same from tokens that are looked up already: `[N, out_channels, height', width']`, channels-last."""
    assert convolution.bias is not None
    height, width = window
    (kernel, _), (stride, _) = convolution.kernel_size, convolution.stride
    bags = _bags_of_output_rows(tokens, convolved_side(height, kernel, stride), kernel, stride, width, convolution)
    out = _WeightedBags.apply(convolution.weight, convolution.bias, *bags, width, stride)
    assert isinstance(out, Tensor)
    return out.view(tokens.slots.shape[0], -1, *out.shape[1:]).permute(0, 3, 1, 2)


def _bags_of_output_rows(
    tokens: DrawnTokens, out_height: int, kernel: int, stride: int, width: int, convolution: nn.Conv2d
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pairs (output row of a sample, token under its kernel), by bag = sample * out_height + output row.

    NumPy finds and counts them several times as fast as torch does on the CPU.

    Returns:
        The pairs' entries of the table, their values and bags, and the first pair of each bag (and the end).
    """
    num_samples, num_tokens = tokens.slots.shape
    row_size = width * convolution.in_channels  # slots of one row of the box
    slots, drawn = tokens.slots.numpy(), tokens.drawn.numpy()
    box_rows = (slots // row_size).astype(np.int16)
    tops = np.arange(0, out_height * stride, stride, dtype=np.int16)[:, None]
    below = box_rows[:, None] - tops  # [N, output rows, M]: the kernel's row in which the token lies
    under = (below >= 0) & (below < kernel) & drawn[:, None]
    pairs = np.flatnonzero(under).astype(np.int32)
    bags = pairs // num_tokens
    samples = bags // out_height
    out_rows = bags - samples * out_height
    sources = torch.from_numpy(pairs - (bags - samples) * num_tokens)  # in the flat [N, M]
    entries = tokens.slots.view(-1).index_select(0, sources) - torch.from_numpy(out_rows * (stride * row_size))
    values = tokens.values.view(-1).index_select(0, sources)
    counts = np.bincount(bags, minlength=num_samples * out_height)
    return entries, values, torch.from_numpy(bags), _starts(torch.from_numpy(counts))


def _starts(counts: Tensor) -> Tensor:
    """[n + 1] int32: where each of n bags begins, and the end of the last."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int32)
    torch.cumsum(counts, dim=0, out=starts[1:])
    return starts


def _has_plain_windows(convolution: nn.Conv2d) -> bool:
    square = len(set(convolution.kernel_size)) == 1 and len(set(convolution.stride)) == 1
    plain = convolution.padding == (0, 0) and convolution.dilation == (1, 1) and convolution.groups == 1
    return square and plain and convolution.bias is not None


class _WeightedBags(torch.autograd.Function):
    """`[bags, output columns, out_channels]`: one bag is one output row of one sample."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        weight: Tensor,
        bias: Tensor,
        entries: Tensor,
        values: Tensor,
        bags: Tensor,
        starts: Tensor,
        width: int,
        stride: int,
    ) -> Tensor:
        out_channels, in_channels, kernel, _ = weight.shape
        out_width = convolved_side(width, kernel, stride)
        table = weight.new_zeros(kernel, width, in_channels, out_width, out_channels, dtype=torch.float32)
        by_place = weight.permute(2, 3, 1, 0)
        for column in range(out_width):
            table[:, column * stride : column * stride + kernel, :, column] = by_place
        out = _bags(table.view(-1, out_width * out_channels), entries, starts, values)
        ctx.save_for_backward(entries, values, bags)
        ctx.sizes = (weight.shape, table.shape, stride)
        return out.view(-1, out_width, out_channels).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        entries, values, bags = ctx.saved_tensors
        weight_shape, table_shape, stride = ctx.sizes
        kernel = weight_shape[2]
        table_rows = table_shape[0] * table_shape[1] * table_shape[2]
        # The gradient of the table is a weighted bag too: of the output rows that each of its entries went into.
        keys = entries.short() if table_rows < 2**15 else entries  # sorting 16 bits takes a fifth of the time
        order = keys.argsort(stable=True)
        starts = _starts(torch.bincount(entries, minlength=table_rows))
        grad = grad.float().contiguous()
        grad_table = _bags(grad.flatten(1), bags.index_select(0, order), starts, values.index_select(0, order)).view(
            table_shape
        )
        by_place = grad_table[:, :kernel, :, 0].clone()
        for column in range(1, table_shape[3]):
            by_place += grad_table[:, column * stride : column * stride + kernel, :, column]
        return by_place.permute(3, 2, 0, 1).contiguous(), grad.sum(dim=(0, 1)), None, None, None, None, None, None


def _bags(table: Tensor, entries: Tensor, starts: Tensor, values: Tensor) -> Tensor:
    return torch.embedding_bag(table, entries, starts, mode=0, per_sample_weights=values, include_last_offset=True)[0]
