"""Linear layers with what stands behind them: bias, activation, and perhaps a layer with a single output.

Most kernels take the sums of a product that torch made. Those that end in `_with_product` make it themselves, some rows
at a time, so that its sums are read while they are in the cache; they need what `multiplies` tells. The activation is
ReLU or tanh.
"""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import inline, kernel
from metta_train.policies.kernels.numbers import get, put, relu_of, tanh_of
from metta_train.policies.kernels.products import end_of_products, multiply

BLOCK = 64  # rows


@inline
def _activate(relu, sums, bias, target) -> None:
    """target[j] <- activation of (sums[j] + bias[j]); bias is float32."""
    if relu:
        for j in range(bias.size):
            put(target, j, relu_of(get(sums, j) + bias[j]))
    else:
        for j in range(bias.size):
            put(target, j, tanh_of(get(sums, j) + bias[j]))


@inline
def _go_back(relu, grad, outputs, target, grad_bias) -> None:
    """target[j] <- grad[j] times the slope of the activation, whose outputs are known; added to grad_bias too."""
    if relu:
        for j in range(grad_bias.size):
            value = np.float32(0) if get(outputs, j) <= np.float32(0) else get(grad, j)
            put(target, j, value)
            grad_bias[j] += value
    else:
        for j in range(grad_bias.size):
            output = get(outputs, j)
            value = get(grad, j) * (np.float32(1) - output * output)
            put(target, j, value)
            grad_bias[j] += value


@inline
def _go_back_from_value(relu, slope, outputs, weight, target, grad_bias, grad_weight) -> None:
    """The same from a value, the sum of outputs[j] weight[j], whose gradient is `slope`."""
    if relu:
        for j in range(grad_bias.size):
            output = get(outputs, j)
            value = np.float32(0) if output <= np.float32(0) else slope * weight[j]
            put(target, j, value)
            grad_bias[j] += value
            grad_weight[j] += slope * output
    else:
        for j in range(grad_bias.size):
            output = get(outputs, j)
            value = slope * weight[j] * (np.float32(1) - output * output)
            put(target, j, value)
            grad_bias[j] += value
            grad_weight[j] += slope * output


@inline
def _weighted_sum(inputs, weight):
    total = np.float32(0)
    for j in range(weight.size):
        total += get(inputs, j) * weight[j]
    return total


@inline
def _put_all(source, target) -> None:
    for j in range(target.size):
        put(target, j, source[j])


@kernel
def activated(relu, sums, bias) -> None:
    """Sums [N, O] <- activation of (sums + bias [O])."""
    for n in range(sums.shape[0]):
        _activate(relu, sums[n], bias, sums[n])


@kernel
def through_activation(relu, grad, outputs, grad_sums, grad_bias) -> None:
    """The way back: grad_sums [N, O] filled, grad_bias [O] float32 added to."""
    for n in range(grad.shape[0]):
        _go_back(relu, grad[n], outputs[n], grad_sums[n], grad_bias)


@kernel
def weighted_sums(inputs, weight, bias, out) -> None:
    """out[n] <- bias + sum over j of inputs[n, j] weight[j]; all but the inputs are float32."""
    for n in range(inputs.shape[0]):
        out[n] = _weighted_sum(inputs[n], weight) + bias


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
    """Sums <- activation of (sums + bias), out[n] <- value_bias + sum over j of sums[n, j] weight[j]."""
    for n in range(sums.shape[0]):
        _activate(relu, sums[n], bias, sums[n])
        out[n] = _weighted_sum(sums[n], weight) + value_bias


@kernel
def through_value_of_sums(relu, grad, outputs, weight, grad_sums, grad_bias, grad_weight) -> None:
    """The way back: grad_sums filled, grad_bias and grad_weight added to; `outputs` are the sums of the way there."""
    for n in range(outputs.shape[0]):
        _go_back_from_value(relu, grad[n], outputs[n], weight, grad_sums[n], grad_bias, grad_weight)


@kernel
def linear_with_product(relu, inputs, weights, bias, outputs) -> None:
    """Outputs [N, O] <- activation of (inputs [N, I] weights + bias [O]); weights [I, O] `packed`."""
    num_rows, size = outputs.shape
    sums = np.empty((min(BLOCK, num_rows), size), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        multiply(inputs[first:end], weights, sums[: end - first])
        for n in range(first, end):
            _activate(relu, sums[n - first], bias, outputs[n])
    end_of_products(inputs)


@kernel
def through_linear_with_product(relu, grad, outputs, weights, grad_sums, grad_bias, grad_inputs) -> None:
    """The way back: grad_sums [N, O] and grad_inputs [N, I] filled, grad_bias added to; weights [O, I] `packed`."""
    num_rows = outputs.shape[0]
    products = np.empty((min(BLOCK, num_rows), grad_inputs.shape[1]), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        for n in range(first, end):
            _go_back(relu, grad[n], outputs[n], grad_sums[n], grad_bias)
        multiply(grad_sums[first:end], weights, products[: end - first])
        for n in range(first, end):
            _put_all(products[n - first], grad_inputs[n])
    end_of_products(grad_sums)


@kernel
def value_with_product(relu, inputs, weights, bias, weight, value_bias, hidden, out) -> None:
    """Hidden as `outputs` of `linear_with_product`, out[n] <- value_bias + sum over j of hidden[n, j] weight[j].

    Hidden may have 0 rows, and is not kept then.
    """
    num_rows, size = inputs.shape[0], bias.size
    sums = np.empty((min(BLOCK, num_rows), size), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        multiply(inputs[first:end], weights, sums[: end - first])
        for n in range(first, end):
            row = sums[n - first]
            _activate(relu, row, bias, row)
            out[n] = _weighted_sum(row, weight) + value_bias
            if hidden.shape[0] > 0:
                _put_all(row, hidden[n])
    end_of_products(inputs)


@kernel
def through_value_with_product(
    relu, grad, outputs, weight, weights, grad_sums, grad_bias, grad_weight, grad_inputs
) -> None:
    """The way back: grad_sums and grad_inputs filled, grad_bias and grad_weight added to; weights [O, I] `packed`."""
    num_rows = outputs.shape[0]
    products = np.empty((min(BLOCK, num_rows), grad_inputs.shape[1]), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        for n in range(first, end):
            _go_back_from_value(relu, grad[n], outputs[n], weight, grad_sums[n], grad_bias, grad_weight)
        multiply(grad_sums[first:end], weights, products[: end - first])
        for n in range(first, end):
            _put_all(products[n - first], grad_inputs[n])
    end_of_products(grad_sums)
