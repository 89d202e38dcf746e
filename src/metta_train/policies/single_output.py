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
from metta_train.policies.watched import is_watched


def single_output(linear: nn.Linear, inputs: Tensor) -> Tensor:
    """`linear(inputs)` `[N, 1]` for inputs `[N, in_features]`."""
    assert linear.out_features == 1
    if inputs.device.type != "cpu" or linear.bias is None or is_watched(linear):
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
        rest = weight.numpy()[0], bias.numpy()[0], out.numpy()[:, 0]
        if inputs.dtype == torch.bfloat16:
            cpu_kernels.weighted_sums_bits(cpu_kernels.bits_of(inputs), *rest)
        else:
            cpu_kernels.weighted_sums(inputs.numpy(), *rest)
        ctx.save_for_backward(inputs, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_inputs, grad_weight = torch.empty_like(inputs), torch.zeros_like(weight)
        slopes, weights, sums = grad.numpy()[:, 0], weight.detach().numpy()[0], grad_weight.numpy()[0]
        if inputs.dtype == torch.bfloat16:
            bits = cpu_kernels.bits_of(inputs), weights, cpu_kernels.bits_of(grad_inputs)
            cpu_kernels.through_weighted_sums_bits(slopes, *bits, sums)
        else:
            cpu_kernels.through_weighted_sums(slopes, inputs.numpy(), weights, grad_inputs.numpy(), sums)
        return grad_inputs, grad_weight, grad.sum(dim=0)
