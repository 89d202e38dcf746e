"""A linear layer with one output, such as a value head: a weighted sum, for which a matrix product is slow.

On the CPU it reads its inputs once forward and once backward, in the same pass as the activation of the layer before it
where that has no other reader (`kernels/dense.py`); the output is float32 also under bfloat16 autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metta_train.policies.activated_linear import (
    activated_linear,
    has_kernels,
    is_relu,
    multiplies_in_kernel,
    weight_for,
)
from metta_train.policies.held_weights import held
from metta_train.policies.kernels import dense
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.kernels.products import packed, packer
from metta_train.policies.watched import takes_cpu_kernels

_PAGE, _LINE = 4096, 64  # bytes


def single_output(linear: nn.Linear, inputs: Tensor) -> Tensor:
    """`linear(inputs)` `[N, 1]` for inputs `[N, in_features]`."""
    assert linear.out_features == 1
    if linear.bias is None or not takes_cpu_kernels(inputs, linear):
        return linear(inputs)
    if torch.is_autocast_enabled("cpu"):
        inputs = inputs.to(torch.get_autocast_dtype("cpu"))
    if not torch.is_grad_enabled():
        return _weighted_sums(inputs.contiguous(), linear.weight, linear.bias)
    outputs = _SingleOutput.apply(inputs, linear.weight, linear.bias)
    assert isinstance(outputs, Tensor)
    return outputs


def single_output_behind(
    linear: nn.Linear, hidden: nn.Linear, activation: Callable[[Tensor], Tensor], inputs: Tensor
) -> Tensor:
    """`linear(activation(hidden(inputs)))` `[N, 1]`; fast for `functional.relu` and `torch.tanh`."""
    assert linear.out_features == 1
    known = has_kernels(activation) and linear.bias is not None and hidden.bias is not None
    if not known or not takes_cpu_kernels(inputs, linear, hidden):
        return single_output(linear, activated_linear(hidden, activation, inputs))
    if torch.is_autocast_enabled("cpu"):
        inputs = inputs.to(torch.get_autocast_dtype("cpu"))
    parameters = (hidden.weight, hidden.bias, linear.weight, linear.bias)
    if not torch.is_grad_enabled():
        return _values(inputs.contiguous(), *parameters, is_relu(activation), forward_only=True)[0]
    outputs = _SingleOutputBehind.apply(inputs, *parameters, is_relu(activation))
    assert isinstance(outputs, Tensor)
    return outputs


def _values(
    inputs: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
    *,
    forward_only: bool,
) -> tuple[Tensor, Tensor]:
    """`[N, 1]` and the hidden layer, which need not be kept if nobody goes back."""
    out = inputs.new_empty(inputs.shape[0], 1, dtype=torch.float32)
    head = (numbers_of(hidden_bias), numbers_of(weight)[0], numbers_of(bias)[0])
    if multiplies_in_kernel(inputs, hidden_weight, forward_only=forward_only):
        hidden = inputs.new_empty(0 if forward_only else inputs.shape[0], hidden_weight.shape[0])
        weights = held(packer(inputs.dtype, transposed=True), hidden_weight)
        product = (numbers_of(inputs), numbers_of(weights))
        dense.value_with_product(relu, *product, *head, numbers_of(hidden), numbers_of(out)[:, 0])
    else:
        hidden = _empty_apart(inputs, hidden_weight.shape[0])
        torch.mm(inputs, weight_for(inputs, hidden_weight).t(), out=hidden[:, : hidden_weight.shape[0]])
        dense.value_of_sums(relu, numbers_of(hidden), *head, numbers_of(out)[:, 0])
    return out, hidden


class _SingleOutputBehind(torch.autograd.Function):
    """`[N, in]`, float32 or bfloat16 -> `[N, 1]` float32; the parameters are float32."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        inputs: Tensor,
        hidden_weight: Tensor,
        hidden_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        relu: bool,  # autograd functions take no keywords
    ) -> Tensor:
        inputs = inputs.contiguous()
        out, hidden = _values(inputs, hidden_weight, hidden_bias, weight, bias, relu, forward_only=False)
        ctx.save_for_backward(inputs, hidden_weight, weight, hidden)
        ctx.relu = relu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, hidden_weight, weight, hidden = ctx.saved_tensors
        grad_sums, grad_bias, grad_weight = (
            torch.empty_like(hidden),
            torch.zeros(weight.shape[1]),
            torch.zeros_like(weight),
        )
        sums = (numbers_of(grad_sums), numbers_of(grad_bias), numbers_of(grad_weight)[0])
        known = (numbers_of(grad.contiguous())[:, 0], numbers_of(hidden), numbers_of(weight)[0])
        if multiplies_in_kernel(inputs, hidden_weight):
            grad_inputs = torch.empty_like(inputs)
            weights = packed(hidden_weight, dtype=inputs.dtype)
            dense.through_value_with_product(ctx.relu, *known, numbers_of(weights), *sums, numbers_of(grad_inputs))
        else:
            dense.through_value_of_sums(ctx.relu, *known, *sums)
            grad_sums = grad_sums[:, : weight.shape[1]]
            grad_inputs = grad_sums @ weight_for(inputs, hidden_weight) if ctx.needs_input_grad[0] else None
        return grad_inputs, (grad_sums.t() @ inputs).float(), grad_bias, grad_weight, grad.sum(dim=0), None


def _empty_apart(like: Tensor, width: int) -> Tensor:
    """`[N, width]` and some columns that nobody reads, where rows would otherwise begin a page apart.

    All of them would fall into the same lines of the cache then: the gradient of a weight of 1,024 x 128 takes 1.25
    instead of 1.55 ms.
    """
    line = _LINE // like.element_size()
    apart = width + line if width * like.element_size() % _PAGE == 0 else width
    return like.new_empty(like.shape[0], apart)


def _weighted_sums(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = inputs.new_empty(inputs.shape[0], 1, dtype=torch.float32)
    dense.weighted_sums(numbers_of(inputs), numbers_of(weight)[0], numbers_of(bias)[0], numbers_of(out)[:, 0])
    return out


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
        ctx.save_for_backward(inputs, weight)
        return _weighted_sums(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_inputs, grad_weight = torch.empty_like(inputs), torch.zeros_like(weight)
        slopes, weights, sums = numbers_of(grad)[:, 0], numbers_of(weight)[0], numbers_of(grad_weight)[0]
        dense.through_weighted_sums(slopes, numbers_of(inputs), weights, numbers_of(grad_inputs), sums)
        return grad_inputs, grad_weight, grad.sum(dim=0)
