"""Modules that turn a hidden vector into one logit per active action."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta_train.policies.held_weights import held
from metta_train.policies.kernels.actions import embedding_scores, through_embedding_scores
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.kernels.products import TILE, multiplies, packed, packer
from metta_train.policies.watched import takes_cpu_kernels


class ActionEmbedding(nn.Embedding):
    """The embeddings of the active actions; a rollout on the CPU looks them up once for all of its steps."""

    def forward(self, input: Tensor) -> Tensor:
        """`active_rows[A]` -> `[A, embedding_dim]`."""
        if torch.is_grad_enabled() or not takes_cpu_kernels(self.weight):
            return super().forward(input)
        return held(functional.embedding, input, self.weight)


class EmbeddingActor(nn.Module):
    """logit_a = tanh(h W) . e_a + b.

    The query tanh(h W) is the same for every action, so it is computed once.
    """

    def __init__(self, hidden_size: int, embedding_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size, embedding_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """`hidden[N, hidden_size]`, `embeddings[A, embedding_size]` -> logits `[N, A]`."""
        if _suits_kernels(self, hidden):
            return _scores(hidden, self.weight, embeddings, self.bias)
        query = torch.tanh(hidden @ self.weight[0])
        return query @ embeddings.t() + self.bias


class EmbeddingScoreActor(nn.Module):
    """K scores tanh(h W_k) . e_a + b_k per action, then ReLU, Linear, ReLU, Linear to the logit."""

    def __init__(self, hidden_size: int, embedding_size: int, num_scores: int, mlp_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_scores, hidden_size, embedding_size))
        self.bias = nn.Parameter(torch.zeros(num_scores))
        self.mlp_1 = nn.Linear(num_scores, mlp_size)
        self.mlp_2 = nn.Linear(mlp_size, 1)

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """`hidden[N, hidden_size]`, `embeddings[A, embedding_size]` -> logits `[N, A]`."""
        queries = torch.tanh(torch.einsum("nh,khe->nke", hidden, self.weight))
        scores = torch.einsum("nke,ae->nak", queries, embeddings) + self.bias
        return self.mlp_2(functional.relu(self.mlp_1(functional.relu(scores)))).squeeze(-1)


class RowActor(nn.Module):
    """One linear output per action name; row k of the policy's action rows (counted from 1) is output k - 1."""

    def __init__(self, hidden_size: int, num_rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_rows, hidden_size))
        self.bias = nn.Parameter(torch.zeros(num_rows))

    def forward(self, hidden: Tensor, active_rows: Tensor) -> Tensor:
        """`hidden[N, hidden_size]`, `active_rows[A]` -> logits `[N, A]`."""
        outputs = active_rows - 1
        return functional.linear(hidden, self.weight[outputs], self.bias[outputs])


def _suits_kernels(actor: EmbeddingActor, hidden: Tensor) -> bool:
    """Whether the kernels can do it, which they do in the type of `hidden`; logits are float32."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
    if not takes_cpu_kernels(hidden, actor) or not multiplies(dtype):
        return False
    return dtype != torch.bfloat16 or (actor.weight.shape[1] % TILE == 0 and actor.weight.shape[2] % (TILE // 2) == 0)


def _scores(hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        hidden = hidden.to(torch.get_autocast_dtype("cpu"))
    if torch.is_grad_enabled():
        logits = _Scores.apply(hidden, weight, embeddings, bias)
        assert isinstance(logits, Tensor)
        return logits
    return _forward(hidden.contiguous(), weight, embeddings.contiguous(), bias)[0]


def _forward(hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    weights = held(packer(hidden.dtype), held(_matrix, weight))
    queries = torch.empty(hidden.shape[0], weight.shape[2])
    logits = torch.empty(hidden.shape[0], embeddings.shape[0])
    embedding_scores(*map(numbers_of, (hidden, weights, embeddings, bias, queries, logits)))
    return logits, queries


def _matrix(weight: Tensor) -> Tensor:
    return weight.detach()[0]


class _Scores(torch.autograd.Function):
    """`[N, H]`, `[1, H, E]`, `[A, E]`, `[1]` -> float32 logits `[N, A]`; all but the first are float32."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        hidden: Tensor,
        weight: Tensor,
        embeddings: Tensor,
        bias: Tensor,
    ) -> Tensor:
        hidden, embeddings = hidden.contiguous(), embeddings.contiguous()
        logits, queries = _forward(hidden, weight, embeddings, bias)
        ctx.save_for_backward(hidden, weight, embeddings, queries)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        hidden, weight, embeddings, queries = ctx.saved_tensors
        weights = packed(_matrix(weight), dtype=hidden.dtype, transposed=True)
        grad_sums = torch.empty(queries.shape, dtype=hidden.dtype)
        grad_hidden, grad_embeddings, grad_bias = torch.empty_like(hidden), torch.zeros_like(embeddings), torch.zeros(1)
        known = (grad.contiguous(), weights, embeddings, queries)
        through_embedding_scores(*map(numbers_of, (*known, grad_sums, grad_hidden, grad_embeddings, grad_bias)))
        return grad_hidden, (hidden.t() @ grad_sums).float().unsqueeze(0), grad_embeddings, grad_bias
