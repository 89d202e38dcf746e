"""The classes that `class:` in YAML can name. A new component is a class in one of these files and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from metta_train.policies.component_graph.activation import (
    ELU,
    GELU,
    SELU,
    LeakyReLU,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from metta_train.policies.component_graph.actor_head import ActorLinear, MettaActorBig, MettaActorSingleHead
from metta_train.policies.component_graph.component import Component
from metta_train.policies.component_graph.convolution import Conv2d
from metta_train.policies.component_graph.embedding import ActionEmbedding, Embedding
from metta_train.policies.component_graph.linear import Bilinear, Linear, ResNetMLP
from metta_train.policies.component_graph.merge import Add, Concat, Mean, Subtract
from metta_train.policies.component_graph.normalization import (
    AlphaDropout,
    BatchNorm1d,
    BatchNorm2d,
    Dropout,
    Dropout2d,
    LayerNorm,
)
from metta_train.policies.component_graph.observation import ObservationNormalizer, ObsTokenToBox, ObsVector
from metta_train.policies.component_graph.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from metta_train.policies.component_graph.recurrence import LSTM
from metta_train.policies.component_graph.shaping import CenterPixel, Expand, Flatten, Identity, Reshape

LIBRARY: Mapping[str, type[Component]] = {
    component.__name__: component
    for component in (
        ObsTokenToBox,
        ObservationNormalizer,
        ObsVector,
        Conv2d,
        Linear,
        Bilinear,
        ResNetMLP,
        LSTM,
        Embedding,
        ActionEmbedding,
        MettaActorSingleHead,
        MettaActorBig,
        ActorLinear,
        Identity,
        Flatten,
        Expand,
        Reshape,
        CenterPixel,
        Concat,
        Add,
        Subtract,
        Mean,
        ELU,
        GELU,
        LeakyReLU,
        Mish,
        ReLU,
        SELU,
        SiLU,
        Sigmoid,
        Softplus,
        Tanh,
        LayerNorm,
        BatchNorm1d,
        BatchNorm2d,
        Dropout,
        Dropout2d,
        AlphaDropout,
        MaxPool1d,
        MaxPool2d,
        AvgPool1d,
        AvgPool2d,
        AdaptiveAvgPool1d,
        AdaptiveAvgPool2d,
        AdaptiveMaxPool1d,
        AdaptiveMaxPool2d,
    )
}
