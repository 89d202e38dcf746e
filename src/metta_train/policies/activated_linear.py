"""A linear layer and the ReLU or tanh behind it, as one operation on the CPU.

Bias, activation, their gradients and the sum for the bias's gradient are one pass each (`kernels/dense.py`) behind
products of torch's; in bfloat16, on CPUs with tiles, and where no gradient is asked for in float32 too, they are in one
kernel with the products. Under bfloat16 autocast the products are bfloat16 and what is between them is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta_train.policies.held_weights import held, to_bfloat16
from metta_train.policies.kernels import dense
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.kernels.products import TILE, multiplies, packed, packer
from metta_train.policies.watched import takes_cpu_kernels

_IS_RELU = {functional.relu: True, torch.relu: True, torch.tanh: False}


def activated_linear(linear: nn.Linear, activation: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`activation(linear(inputs))` for inputs `[N, in_features]`; fast for `functional.relu` and `torch.tanh`."""
    if not has_kernels(activation) or linear.bias is None or not takes_cpu_kernels(inputs, linear):
        return activation(linear(inputs))
    return activated_product(inputs, linear.weight, linear.bias, activation)


def has_kernels(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether kernels know the activation."""
    return activation in _IS_RELU


def is_relu(activation: Callable[[Tensor], Tensor]) -> bool:
    """Of the two that kernels know, ReLU and tanh."""
    return _IS_RELU[activation]


def activated_product(inputs: Tensor, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """`activation(linear(inputs, weight, bias))` on the CPU, for an activation that `has_kernels`."""
    relu = is_relu(activation)
    if torch.is_autocast_enabled("cpu"):
        inputs = inputs.to(torch.get_autocast_dtype("cpu"))
    if not torch.is_grad_enabled():
        return _outputs(inputs.contiguous(), weight, bias, relu, forward_only=True)
    outputs = _ActivatedLinear.apply(inputs, weight, bias, relu)
    assert isinstance(outputs, Tensor)
    return outputs


def weight_for(inputs: Tensor, weight: Tensor) -> Tensor:
    """A weight in the type of the inputs that it is multiplied by, without a gradient."""
    return held(to_bfloat16, weight) if inputs.dtype == torch.bfloat16 else weight.detach().to(inputs.dtype)


def multiplies_in_kernel(inputs: Tensor, weight: Tensor, *, forward_only: bool = False) -> bool:
    """Whether a kernel makes the product too; see `products.py`.

    In float32 they are faster only if no gradient is asked for: rollouts pack a weight once for all of their steps.
    """
    if inputs.dtype == torch.float32:
        return forward_only and multiplies(torch.float32)
    fits = weight.shape[0] % TILE == 0 and weight.shape[1] % TILE == 0
    return fits and inputs.dtype == torch.bfloat16 and multiplies(torch.bfloat16)


def _outputs(inputs: Tensor, weight: Tensor, bias: Tensor, relu: bool, *, forward_only: bool) -> Tensor:
    if multiplies_in_kernel(inputs, weight, forward_only=forward_only):
        outputs = inputs.new_empty(inputs.shape[0], weight.shape[0])
        tensors = (inputs, held(packer(inputs.dtype, transposed=True), weight), bias, outputs)
        dense.linear_with_product(relu, *map(numbers_of, tensors))
        return outputs
    outputs = inputs @ weight_for(inputs, weight).t()
    dense.activated(relu, numbers_of(outputs), numbers_of(bias))
    return outputs


class _ActivatedLinear(torch.autograd.Function):
    """`[N, in]`, float32 or bfloat16 -> `[N, out]` of the same type; weight and bias are float32."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        relu: bool,
    ) -> Tensor:
        inputs = inputs.contiguous()
        outputs = _outputs(inputs, weight, bias, relu, forward_only=False)
        ctx.save_for_backward(inputs, weight, outputs)
        ctx.relu = relu
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight, outputs = ctx.saved_tensors
        grad = grad.contiguous()
        grad_sums = torch.empty_like(grad)
        grad_bias = torch.zeros(weight.shape[0])
        grad_inputs = None
        if multiplies_in_kernel(inputs, weight) and ctx.needs_input_grad[0]:
            grad_inputs = torch.empty_like(inputs)
            weights = packed(weight, dtype=inputs.dtype)
            tensors = (grad, outputs, weights, grad_sums, grad_bias, grad_inputs)
            dense.through_linear_with_product(ctx.relu, *map(numbers_of, tensors))
        else:
            dense.through_activation(ctx.relu, *map(numbers_of, (grad, outputs, grad_sums, grad_bias)))
            grad_inputs = grad_sums @ weight_for(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_inputs, (grad_sums.t() @ inputs).float(), grad_bias, None
