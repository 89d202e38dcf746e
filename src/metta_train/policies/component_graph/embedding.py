"""Embedding tables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from metta_train.policies.action_rows import EMBEDDING_ROWS
from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.initialization import EmbeddingMaxAbs
from metta_train.specs.config_model import ConfigModel


class ActionEmbeddingParams(ConfigModel):
    """Width of the table; its 100 rows are the policy's action rows."""

    embedding_dim: Annotated[int, Field(gt=0)]


class ActionEmbedding(Component):
    """The embedding of each active action, `[A, embedding_dim]`, shared by all rows. Its source is `active_actions`."""

    nn_params: ActionEmbeddingParams

    def build(self, site: Site) -> Built:
        if len(site.inputs) != 1 or site.inputs[0].per_row:
            raise ValueError("takes exactly 1 source, active_actions")
        return Built(
            module=nn.Embedding(EMBEDDING_ROWS, self.nn_params.embedding_dim),
            output=Signal((*site.inputs[0].shape, self.nn_params.embedding_dim), per_row=False),
            initial_values={"weight": EmbeddingMaxAbs(0.1)},
        )
