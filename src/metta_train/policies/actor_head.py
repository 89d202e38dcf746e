"""Modules that turn a hidden vector into one logit per active action."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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
