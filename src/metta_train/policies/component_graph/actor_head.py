"""Heads that turn a hidden vector and the action embeddings into one logit per action."""

from __future__ import annotations

import math

from metta_train.policies.actor_head import EmbeddingActor
from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.initialization import UniformRange


class MettaActorSingleHead(Component):
    """logit_a = tanh(h W) . e_a + b. Sources: a hidden vector `[n]`, then the action embeddings `[A, m]`."""

    def build(self, site: Site) -> Built:
        hidden_size, embedding_size, num_actions = actor_sizes(site)
        limit = 1 / math.sqrt(hidden_size)
        return Built(
            module=EmbeddingActor(hidden_size, embedding_size),
            output=Signal((num_actions,)),
            initial_values={"weight": UniformRange(limit), "bias": UniformRange(limit)},
        )


def actor_sizes(site: Site) -> tuple[int, int, int]:
    """Sizes of (hidden vector, embedding, action table). Raises ValueError for other inputs."""
    if len(site.inputs) != 2:
        raise ValueError(f"takes 2 sources, a hidden vector and the action embeddings, got {len(site.inputs)}")
    hidden, embeddings = site.inputs
    if not hidden.per_row or len(hidden.shape) != 1:
        raise ValueError(f"its first source must be a vector per row, got {hidden}")
    if embeddings.per_row or len(embeddings.shape) != 2:
        raise ValueError(f"its second source must be the action embeddings, got {embeddings}")
    return hidden.shape[0], embeddings.shape[1], embeddings.shape[0]
