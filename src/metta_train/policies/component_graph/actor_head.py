"""Heads that turn a hidden vector into one logit per active action."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from metta_train.policies.actor_head import EmbeddingActor, EmbeddingScoreActor, RowActor
from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.initialization import UniformRange, Zeros
from metta_train.specs.config_model import ConfigModel

Positive = Annotated[int, Field(gt=0)]


class MettaActorSingleHead(Component):
    """logit_a = tanh(h W) . e_a + b. Sources: a hidden vector `[n]`, then the action embeddings `[A, m]`."""

    def build(self, site: Site) -> Built:
        hidden_size, embedding_size, num_actions = _sizes(site)
        limit = 1 / math.sqrt(hidden_size)
        return Built(
            module=EmbeddingActor(hidden_size, embedding_size),
            output=Signal((num_actions,)),
            initial_values={"weight": UniformRange(limit), "bias": UniformRange(limit)},
        )


class MettaActorBigParams(ConfigModel):
    """K scores per action, and the width of the network that turns them into a logit."""

    bilinear_output_dim: Positive = 32
    mlp_hidden_dim: Positive = 512


class MettaActorBig(Component):
    """K scores tanh(h W_k) . e_a + b_k per action, then ReLU, Linear, ReLU, Linear to the logit."""

    nn_params: MettaActorBigParams = MettaActorBigParams()

    def build(self, site: Site) -> Built:
        hidden_size, embedding_size, num_actions = _sizes(site)
        num_scores, mlp_size = self.nn_params.bilinear_output_dim, self.nn_params.mlp_hidden_dim
        limits = {"": hidden_size, "mlp_1.": num_scores, "mlp_2.": mlp_size}
        return Built(
            module=EmbeddingScoreActor(hidden_size, embedding_size, num_scores, mlp_size),
            output=Signal((num_actions,)),
            initial_values={
                f"{layer}{parameter}": UniformRange(1 / math.sqrt(fan_in))
                for layer, fan_in in limits.items()
                for parameter in ("weight", "bias")
            },
        )


class ActorLinear(Component):
    """One linear output per action name. Sources: a hidden vector `[n]`, then `active_actions`.

    Weights start within +-0.01, so that all actions are about equally likely at first. A policy with this head knows
    the action names that it was built for, in any order, and cannot learn others.
    """

    def build(self, site: Site) -> Built:
        if len(site.inputs) != 2:
            raise ValueError(f"takes 2 sources, a hidden vector and active_actions, got {len(site.inputs)}")
        hidden, actions = site.inputs
        if not hidden.per_row or len(hidden.shape) != 1:
            raise ValueError(f"its first source must be a vector per row, got {hidden}")
        if actions.per_row or len(actions.shape) != 1:
            raise ValueError(f"its second source must be active_actions, got {actions}")
        return Built(
            module=RowActor(hidden.shape[0], site.num_action_rows),
            output=Signal(actions.shape),
            initial_values={"weight": UniformRange(0.01), "bias": Zeros()},
            action_capacity=site.num_action_rows,
        )


def _sizes(site: Site) -> tuple[int, int, int]:
    """Sizes of (hidden vector, embedding, action table). Raises ValueError for other inputs."""
    if len(site.inputs) != 2:
        raise ValueError(f"takes 2 sources, a hidden vector and the action embeddings, got {len(site.inputs)}")
    hidden, embeddings = site.inputs
    if not hidden.per_row or len(hidden.shape) != 1:
        raise ValueError(f"its first source must be a vector per row, got {hidden}")
    if embeddings.per_row or len(embeddings.shape) != 2:
        raise ValueError(f"its second source must be the action embeddings, got {embeddings}")
    return hidden.shape[0], embeddings.shape[1], embeddings.shape[0]
