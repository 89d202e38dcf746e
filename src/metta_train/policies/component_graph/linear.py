"""Linear layers and stacks of them."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from metta_train.policies.component_graph.activation import activation_named
from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.component_graph.weight_layer import WeightLayerComponent
from metta_train.policies.initialization import Constant, Initializer, Orthogonal, UniformRange, Zeros
from metta_train.specs.config_model import ConfigModel

Positive = Annotated[int, Field(gt=0)]


class LinearParams(ConfigModel):
    """Arguments of nn.Linear and nn.Bilinear; the input sizes follow from the sources."""

    out_features: Positive
    bias: bool = True


class Linear(WeightLayerComponent):
    """`[n]` -> `[out_features]`."""

    nn_params: LinearParams

    def build(self, site: Site) -> Built:
        (in_features,) = site.one_input(dims=1)
        return Built(
            module=nn.Linear(in_features, self.nn_params.out_features, bias=self.nn_params.bias),
            output=Signal((self.nn_params.out_features,)),
            activation=activation_named(self.nonlinearity),
            initial_values=self.initial_values(in_features, self.nn_params.bias),
            layer_settings=self.layer_settings(),
        )


class Bilinear(Component):
    """Two sources `[n]`, `[m]` -> `[out_features]`: x W_k y + b_k. Weights and bias start within +-1/sqrt(n)."""

    nn_params: LinearParams

    def build(self, site: Site) -> Built:
        shapes = site.row_inputs(dims=1)
        if len(shapes) != 2:
            raise ValueError(f"takes exactly 2 sources, got {len(shapes)}")
        (first,), (second,) = shapes
        values: dict[str, Initializer] = {"weight": UniformRange(1 / math.sqrt(first))}
        if self.nn_params.bias:
            values["bias"] = UniformRange(1 / math.sqrt(first))
        return Built(
            nn.Bilinear(first, second, self.nn_params.out_features, bias=self.nn_params.bias),
            Signal((self.nn_params.out_features,)),
            initial_values=values,
        )


class ResNetMLPParams(ConfigModel):
    """Number of linear layers, a multiple of 4."""

    depth: Positive

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if depth % 4:
            raise ValueError("must be a multiple of 4")
        return depth


class ResNetMLP(Component):
    """`[n]` -> `[n]`: depth / 4 blocks x + f(x), where f is 4 times (Linear, LayerNorm, Swish)."""

    nn_params: ResNetMLPParams

    def build(self, site: Site) -> Built:
        (size,) = site.one_input(dims=1)
        blocks = nn.Sequential(*(_ResidualBlock(size) for _ in range(self.nn_params.depth // 4)))
        values: dict[str, Initializer] = {}
        for block in range(self.nn_params.depth // 4):
            for layer in range(4):
                values[f"{block}.linears.{layer}.weight"] = Orthogonal()
                values[f"{block}.linears.{layer}.bias"] = Zeros()
                values[f"{block}.norms.{layer}.weight"] = Constant(1.0)
                values[f"{block}.norms.{layer}.bias"] = Zeros()
            values[f"{block}.betas"] = Constant(1.0)
        return Built(blocks, Signal((size,)), initial_values=values)


class _ResidualBlock(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(size, size) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(4))
        self.betas = nn.Parameter(torch.ones(4))  # of the Swish functions y * sigmoid(beta * y)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for linear, norm, beta in zip(self.linears, self.norms, self.betas.unbind(), strict=True):
            y = norm(linear(y))
            y = y * torch.sigmoid(beta * y)
        return x + y
