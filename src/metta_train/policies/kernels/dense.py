"""Linear layers with what stands behind them: bias, activation, and perhaps a layer with a single output.

Most kernels take the sums of a product that torch made. Those that end in `_in_tiles` make it themselves, some rows
at a time, so that its sums are read while they are in the cache; they need what `multiplies` tells.
"""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import kernel
from metta_train.policies.kernels.numbers import get, put, relu_of, tanh_of
from metta_train.policies.kernels.products import end_of_products, multiply

BLOCK = 64  # rows


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


@kernel
def linear_in_tiles(relu, inputs, weights, bias, outputs) -> None:
    """Outputs [N, O] <- relu or tanh of (inputs [N, I] weights + bias [O]); weights [I, O] `packed`."""
    num_rows, size = outputs.shape
    sums = np.empty((min(BLOCK, num_rows), size), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        multiply(inputs[first:end], weights, sums[: end - first])
        for n in range(first, end):
            row, output = sums[n - first], outputs[n]
            if relu:
                for j in range(row.size):
                    put(output, j, relu_of(row[j] + bias[j]))
            else:
                for j in range(row.size):
                    put(output, j, tanh_of(row[j] + bias[j]))
    end_of_products(inputs)


@kernel
def through_linear_in_tiles(relu, grad, outputs, weights, grad_sums, grad_bias, grad_inputs) -> None:
    """The way back: grad_sums [N, O] and grad_inputs [N, I] filled, grad_bias added to; weights [O, I] `packed`."""
    num_rows = outputs.shape[0]
    products = np.empty((min(BLOCK, num_rows), grad_inputs.shape[1]), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        for n in range(first, end):
            grad_row, output_row, sum_row = grad[n], outputs[n], grad_sums[n]
            if relu:
                for j in range(output_row.size):
                    value = np.float32(0) if get(output_row, j) <= np.float32(0) else get(grad_row, j)
                    put(sum_row, j, value)
                    grad_bias[j] += value
            else:
                for j in range(output_row.size):
                    output = get(output_row, j)
                    value = get(grad_row, j) * (np.float32(1) - output * output)
                    put(sum_row, j, value)
                    grad_bias[j] += value
        multiply(grad_sums[first:end], weights, products[: end - first])
        for n in range(first, end):
            source, target = products[n - first], grad_inputs[n]
            for j in range(target.size):
                put(target, j, source[j])
    end_of_products(grad_sums)


@kernel
def value_in_tiles(relu, inputs, weights, bias, weight, value_bias, hidden, out) -> None:
    """Hidden as `outputs` of `linear_in_tiles`, out[n] <- value_bias + sum over j of hidden[n, j] weight[j].

    Hidden may have 0 rows, and is not kept then.
    """
    num_rows, size = inputs.shape[0], bias.size
    sums = np.empty((min(BLOCK, num_rows), size), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        multiply(inputs[first:end], weights, sums[: end - first])
        for n in range(first, end):
            row = sums[n - first]
            if relu:
                for j in range(row.size):
                    row[j] = relu_of(row[j] + bias[j])
            else:
                for j in range(row.size):
                    row[j] = tanh_of(row[j] + bias[j])
            total = np.float32(0)
            for j in range(row.size):
                total += row[j] * weight[j]
            out[n] = total + value_bias
            if hidden.shape[0] > 0:
                kept = hidden[n]
                for j in range(row.size):
                    put(kept, j, row[j])
    end_of_products(inputs)


@kernel
def through_value_in_tiles(
    relu, grad, outputs, weight, weights, grad_sums, grad_bias, grad_weight, grad_inputs
) -> None:
    """The way back: grad_sums and grad_inputs filled, grad_bias and grad_weight added to; weights [O, I] `packed`."""
    num_rows = outputs.shape[0]
    products = np.empty((min(BLOCK, num_rows), grad_inputs.shape[1]), np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        for n in range(first, end):
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
        multiply(grad_sums[first:end], weights, products[: end - first])
        for n in range(first, end):
            source, target = products[n - first], grad_inputs[n]
            for j in range(target.size):
                put(target, j, source[j])
    end_of_products(grad_sums)
