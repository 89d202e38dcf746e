"""A linear layer and the ReLU or tanh behind it, as one operation on the CPU.

The matrix product is torch's; bias, activation, their gradients and the sum for the bias's gradient are one pass each
(`kernels/dense.py`). Under bfloat16 autocast the products are bfloat16 and what is between them is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta_train.policies.held_weights import held, to_bfloat16
from metta_train.policies.kernels import dense
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.watched import takes_cpu_kernels


@dataclass(frozen=True, slots=True)
class _Kernels:
    """Of one activation."""

    forward: Callable[..., None]
    backward: Callable[..., None]


_KERNELS = {
    functional.relu: _Kernels(dense.relu_of_sum, dense.through_relu),
    torch.tanh: _Kernels(dense.tanh_of_sum, dense.through_tanh),
}


def activated_linear(linear: nn.Linear, activation: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`activation(linear(inputs))` for inputs `[N, in_features]`; fast for `functional.relu` and `torch.tanh`."""
    kernels = _KERNELS.get(activation)
    if kernels is None or linear.bias is None or not takes_cpu_kernels(inputs, linear):
        return activation(linear(inputs))
    if torch.is_autocast_enabled("cpu"):
        inputs = inputs.to(torch.get_autocast_dtype("cpu"))
    if not torch.is_grad_enabled():
        return _outputs(inputs, weight_for(inputs, linear.weight), linear.bias, kernels)
    outputs = _ActivatedLinear.apply(inputs, linear.weight, linear.bias, kernels)
    assert isinstance(outputs, Tensor)
    return outputs


def weight_for(inputs: Tensor, weight: Tensor) -> Tensor:
    """A weight in the type of the inputs that it is multiplied by, without a gradient."""
    return held(to_bfloat16, weight) if inputs.dtype == torch.bfloat16 else weight.detach().to(inputs.dtype)


def _outputs(inputs: Tensor, weight: Tensor, bias: Tensor, kernels: _Kernels) -> Tensor:
    outputs = inputs @ weight.t()
    kernels.forward(numbers_of(outputs), numbers_of(bias))
    return outputs


class _ActivatedLinear(torch.autograd.Function):
    """`[N, in]`, float32 or bfloat16 -> `[N, out]` of the same type; weight and bias are float32."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        kernels: _Kernels,
    ) -> Tensor:
        weight_here = weight_for(inputs, weight)
        outputs = _outputs(inputs, weight_here, bias, kernels)
        ctx.save_for_backward(inputs, weight_here, outputs)
        ctx.kernels = kernels
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight, outputs = ctx.saved_tensors
        grad = grad.contiguous()
        grad_sums = torch.empty_like(grad)
        grad_bias = torch.zeros(weight.shape[0])
        ctx.kernels.backward(*map(numbers_of, (grad, outputs, grad_sums, grad_bias)))
        grad_inputs = grad_sums @ weight if ctx.needs_input_grad[0] else None
        return grad_inputs, (grad_sums.t() @ inputs).float(), grad_bias, None
