"""Actor heads that score actions by their embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
