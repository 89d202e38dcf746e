"""Convolutions over the cells of a box."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from metta_train.policies import convolution
from metta_train.policies.component_graph.activation import activation_named
from metta_train.policies.component_graph.component import Built, Signal, Site
from metta_train.policies.component_graph.weight_layer import WeightLayerComponent
from metta_train.policies.convolution import convolved_side
from metta_train.specs.config_model import ConfigModel

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


class Conv2dParams(ConfigModel):
    """Arguments of nn.Conv2d; the input channels follow from the source."""

    out_channels: Positive
    kernel_size: Positive
    stride: Positive = 1
    padding: NotNegative = 0
    dilation: Positive = 1
    bias: bool = True


class Conv2d(WeightLayerComponent):
    """`[channels, height, width]` -> `[out_channels, height', width']`; sizes floor."""

    nn_params: Conv2dParams

    def build(self, site: Site) -> Built:
        channels, *sides = site.one_input(dims=3)
        params = self.nn_params
        new_sides = (
            convolved_side(side, params.kernel_size, params.stride, params.padding, params.dilation) for side in sides
        )
        return Built(
            module=convolution.Conv2d(channels, **params.model_dump()),
            output=Signal((params.out_channels, *new_sides)),
            activation=activation_named(self.nonlinearity),
            initial_values=self.initial_values(channels * params.kernel_size**2, params.bias),
            layer_settings=self.layer_settings(),
        )
