"""What stands around the products of linear layers: bias, activation, their gradients, and sums with one weight each."""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import kernel
from metta_train.policies.kernels.numbers import get, put, relu_of, tanh_of


@kernel
def tanh_of_sum(sums, bias) -> None:
    """sums[n, j] <- tanh(sums[n, j] + bias[j]); the bias is float32."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            put(row, j, tanh_of(get(row, j) + bias[j]))


@kernel
def relu_of_sum(sums, bias) -> None:
    """sums[n, j] <- max(0, sums[n, j] + bias[j]); the bias is float32."""
    for n in range(sums.shape[0]):
        row = sums[n]
        for j in range(row.size):
            put(row, j, relu_of(get(row, j) + bias[j]))


@kernel
def through_tanh(grad, outputs, grad_sums, grad_bias) -> None:
    """grad_sums <- grad (1 - outputs^2), grad_bias += its sum over rows, in float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            output = get(output_row, j)
            value = get(grad_row, j) * (np.float32(1) - output * output)
            put(sum_row, j, value)
            grad_bias[j] += value


@kernel
def through_relu(grad, outputs, grad_sums, grad_bias) -> None:
    """grad_sums <- grad where outputs > 0, else 0; grad_bias += its sum over rows, in float32."""
    for n in range(grad.shape[0]):
        grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
        for j in range(output_row.size):
            value = np.float32(0) if get(output_row, j) <= np.float32(0) else get(grad_row, j)
            put(sum_row, j, value)
            grad_bias[j] += value


@kernel
def weighted_sums(inputs, weight, bias, out) -> None:
    """out[n] <- bias + sum over j of inputs[n, j] weight[j]; all but the inputs are float32."""
    for n in range(inputs.shape[0]):
        row = inputs[n]
        total = np.float32(0)
        for j in range(row.size):
            total += get(row, j) * weight[j]
        out[n] = total + bias


@kernel
def through_weighted_sums(grad, inputs, weight, grad_inputs, grad_weight) -> None:
    """grad_inputs[n, j] <- grad[n] weight[j], grad_weight[j] += sum over n of grad[n] inputs[n, j]."""
    for n in range(inputs.shape[0]):
        row, target, slope = inputs[n], grad_inputs[n], grad[n]
        for j in range(row.size):
            put(target, j, slope * weight[j])
            grad_weight[j] += slope * get(row, j)


@kernel
def value_of_sums(relu, sums, bias, weight, value_bias, out) -> None:
    """Sums <- relu or tanh of (sums + bias), out[n] <- value_bias + sum over j of sums[n, j] weight[j]."""
    for n in range(sums.shape[0]):
        row = sums[n]
        if relu:
            for j in range(row.size):
                put(row, j, relu_of(get(row, j) + bias[j]))
        else:
            for j in range(row.size):
                put(row, j, tanh_of(get(row, j) + bias[j]))
        total = np.float32(0)
        for j in range(row.size):
            total += get(row, j) * weight[j]
        out[n] = total + value_bias


@kernel
def through_value_of_sums(relu, grad, outputs, weight, grad_sums, grad_bias, grad_weight) -> None:
    """The way back: grad_sums filled, grad_bias and grad_weight added to; `outputs` are the sums of the way there."""
    for n in range(outputs.shape[0]):
        output_row, sum_row, slope = outputs[n], grad_sums[n], grad[n]
        if relu:
            for j in range(output_row.size):
                output = get(output_row, j)
                value = np.float32(0) if output <= np.float32(0) else slope * weight[j]
                put(sum_row, j, value)
                grad_bias[j] += value
                grad_weight[j] += slope * output
        else:
            for j in range(output_row.size):
                output = get(output_row, j)
                value = slope * weight[j] * (np.float32(1) - output * output)
                put(sum_row, j, value)
                grad_bias[j] += value
                grad_weight[j] += slope * output
