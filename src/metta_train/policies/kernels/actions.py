"""From a hidden layer to logits, and from logits to actions: a few numbers per row, for which operations cost more."""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import inline, kernel
from metta_train.policies.kernels.numbers import put, tanh_of
from metta_train.policies.kernels.products import end_of_products, multiply

BLOCK = 64  # rows
TINY = np.finfo(np.float32).tiny


@kernel
def embedding_scores(hidden, weights, embeddings, bias, queries, logits) -> None:
    """Queries <- tanh(hidden weights), logits <- queries embeddings^T + bias.

    Args:
        hidden: [N, H].
        weights: [H, E], `packed`.
        embeddings: float32 [A, E].
        bias: float32 [1].
        queries: float32 [N, E], filled.
        logits: float32 [N, A], filled.
    """
    num_rows = hidden.shape[0]
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        multiply(hidden[first:end], weights, queries[first:end])
    end_of_products(hidden)
    for n in range(num_rows):
        query = queries[n]
        for j in range(query.size):
            query[j] = tanh_of(query[j])
        for a in range(embeddings.shape[0]):
            embedding = embeddings[a]
            total = np.float32(0)
            for j in range(query.size):
                total += query[j] * embedding[j]
            logits[n, a] = total + bias[0]


@kernel
def through_embedding_scores(
    grad, weights, embeddings, queries, grad_sums, grad_hidden, grad_embeddings, grad_bias
) -> None:
    """The way back.

    Args:
        grad: float32 [N, A].
        weights: [E, H], `packed`.
        embeddings: as there.
        queries: as there, filled.
        grad_sums: [N, E], filled with the gradient of hidden weights.
        grad_hidden: [N, H], filled.
        grad_embeddings: float32 [A, E], added to.
        grad_bias: float32 [1], added to.
    """
    num_rows, size = queries.shape
    products = np.empty((min(BLOCK, num_rows), grad_hidden.shape[1]), np.float32)
    line = np.empty(size, np.float32)
    for first in range(0, num_rows, BLOCK):
        end = min(first + BLOCK, num_rows)
        for n in range(first, end):
            query = queries[n]
            line[:] = 0
            for a in range(embeddings.shape[0]):
                slope, embedding, to_embedding = grad[n, a], embeddings[a], grad_embeddings[a]
                grad_bias[0] += slope
                for j in range(line.size):
                    line[j] += slope * embedding[j]
                    to_embedding[j] += slope * query[j]
            target = grad_sums[n]
            for j in range(line.size):
                put(target, j, line[j] * (np.float32(1) - query[j] * query[j]))
        multiply(grad_sums[first:end], weights, products[: end - first])
        for n in range(first, end):
            source, target = products[n - first], grad_hidden[n]
            for j in range(target.size):
                put(target, j, source[j])
    end_of_products(grad_sums)


@inline
def _log_of_sum(row):
    """Log of the sum of exp(row), NaN if one of them is not below infinity."""
    top = row[0]
    for j in range(1, row.size):
        top = row[j] if row[j] > top else top
    total = np.float32(0)
    for j in range(row.size):
        total += np.exp(row[j] - top)
    return top + np.log(total)


@kernel
def sampled_actions(logits, noise, actions, log_probs) -> None:
    """actions[n] <- argmax over a of log p[n, a] - log noise[n, a], log_probs[n] <- its log p; see `Policy.act`."""
    for n in range(logits.shape[0]):
        row, draws = logits[n], noise[n]
        normalizer = _log_of_sum(row)
        best, found = -np.inf, 0
        for a in range(row.size):
            score = row[a] - normalizer - np.log(max(draws[a], TINY))
            if score > best:
                best, found = score, a
        actions[n] = found
        log_probs[n] = row[found] - normalizer


@kernel
def evaluated_actions(logits, actions, log_probs, entropies) -> None:
    """log_probs[n] <- log p[n, actions[n]], entropies[n] <- -sum over a of p log p; float32 [N]."""
    for n in range(logits.shape[0]):
        row = logits[n]
        normalizer = _log_of_sum(row)
        entropy = np.float32(0)
        for a in range(row.size):
            log_prob = row[a] - normalizer
            probability = np.exp(log_prob)
            if probability != 0:  # an impossible action has no share
                entropy -= probability * log_prob
        log_probs[n] = row[actions[n]] - normalizer
        entropies[n] = entropy


@kernel
def through_evaluated_actions(grad_log_probs, grad_entropies, logits, actions, entropies, grad_logits) -> None:
    """grad_logits [N, A] <- g_l (1[a = action] - p_a) - g_e p_a (log p_a + entropy)."""
    for n in range(logits.shape[0]):
        row, target = logits[n], grad_logits[n]
        normalizer = _log_of_sum(row)
        for a in range(row.size):
            log_prob = row[a] - normalizer
            probability = np.exp(log_prob)
            value = -grad_log_probs[n] * probability
            if probability != 0:
                value -= grad_entropies[n] * probability * (log_prob + entropies[n])
            target[a] = value
        target[actions[n]] += grad_log_probs[n]
