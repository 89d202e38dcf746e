"""Linear layers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from metta_train.policies.component_graph.activation import activation_named
from metta_train.policies.component_graph.component import Built, Signal, Site
from metta_train.policies.component_graph.weight_layer import WeightLayerComponent
from metta_train.specs.config_model import ConfigModel


class LinearParams(ConfigModel):
    """Arguments of nn.Linear; the input size follows from the source."""

    out_features: Annotated[int, Field(gt=0)]
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
