"""Embedding tables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from metta_train.policies import actor_head
from metta_train.policies.action_rows import EMBEDDING_ROWS
from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.initialization import EmbeddingMaxAbs
from metta_train.specs.config_model import ConfigModel

Positive = Annotated[int, Field(gt=0)]


class ActionEmbeddingParams(ConfigModel):
    """Width of the table; its 100 rows are the policy's action rows."""

    embedding_dim: Positive


class ActionEmbedding(Component):
    """The embedding of each active action, `[A, embedding_dim]`, shared by all rows. Its source is `active_actions`."""

    nn_params: ActionEmbeddingParams

    def build(self, site: Site) -> Built:
        if len(site.inputs) != 1 or site.inputs[0].per_row:
            raise ValueError("takes exactly 1 source, active_actions")
        return Built(
            module=actor_head.ActionEmbedding(EMBEDDING_ROWS, self.nn_params.embedding_dim),
            output=Signal((*site.inputs[0].shape, self.nn_params.embedding_dim), per_row=False),
            initial_values={"weight": EmbeddingMaxAbs(0.1)},
        )


class EmbeddingParams(ConfigModel):
    """Size of the table."""

    num_embeddings: Positive
    embedding_dim: Positive


class Embedding(Component):
    """Whole numbers `[n, ...]` in 0..num_embeddings-1 -> `[n, ..., embedding_dim]`."""

    nn_params: EmbeddingParams

    def build(self, site: Site) -> Built:
        shape = site.one_input()
        table = _Lookup(self.nn_params.num_embeddings, self.nn_params.embedding_dim)
        return Built(
            table, Signal((*shape, self.nn_params.embedding_dim)), initial_values={"weight": EmbeddingMaxAbs(0.1)}
        )


class _Lookup(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.long())
