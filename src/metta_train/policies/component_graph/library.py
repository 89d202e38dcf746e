"""The classes that `class:` in YAML can name. A new component is a class in one of these files and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from metta_train.policies.component_graph import (
    activation,
    actor_head,
    convolution,
    embedding,
    linear,
    observation,
    recurrence,
    shaping,
)
from metta_train.policies.component_graph.component import Component

LIBRARY: Mapping[str, type[Component]] = {
    component.__name__: component
    for component in (
        activation.ELU,
        activation.GELU,
        activation.LeakyReLU,
        activation.Mish,
        activation.ReLU,
        activation.SELU,
        activation.SiLU,
        activation.Sigmoid,
        activation.Softplus,
        activation.Tanh,
        actor_head.MettaActorSingleHead,
        convolution.Conv2d,
        embedding.ActionEmbedding,
        linear.Linear,
        observation.ObsTokenToBox,
        recurrence.LSTM,
        shaping.Flatten,
    )
}
