"""A linear layer with one output, such as a value head: a weighted sum of each row, for which a matrix product is slow.

On the CPU it reads its inputs once forward and once backward (`cpu_kernels.py`); the output is float32 also under
bfloat16 autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metta_train.policies import cpu_kernels
from metta_train.policies.watched import takes_cpu_kernels


def single_output(linear: nn.Linear, inputs: Tensor) -> Tensor:
    """`linear(inputs)` `[N, 1]` for inputs `[N, in_features]`."""
    assert linear.out_features == 1
    if linear.bias is None or not takes_cpu_kernels(inputs, linear):
        return linear(inputs)
    if torch.is_autocast_enabled("cpu"):
        inputs = inputs.to(torch.get_autocast_dtype("cpu"))
    outputs = _SingleOutput.apply(inputs, linear.weight, linear.bias)
    assert isinstance(outputs, Tensor)
    return outputs


class _SingleOutput(torch.autograd.Function):
    """`[N, in]`, float32 or bfloat16 -> `[N, 1]` float32."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        inputs = inputs.contiguous()
        out = inputs.new_empty(inputs.shape[0], 1, dtype=torch.float32)
        numbers = cpu_kernels.numbers_of
        cpu_kernels.weighted_sums(numbers(inputs), numbers(weight)[0], numbers(bias)[0], numbers(out)[:, 0])
        ctx.save_for_backward(inputs, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_inputs, grad_weight = torch.empty_like(inputs), torch.zeros_like(weight)
        numbers = cpu_kernels.numbers_of
        slopes, weights, sums = numbers(grad)[:, 0], numbers(weight)[0], numbers(grad_weight)[0]
        cpu_kernels.through_weighted_sums(slopes, numbers(inputs), weights, numbers(grad_inputs), sums)
        return grad_inputs, grad_weight, grad.sum(dim=0)
