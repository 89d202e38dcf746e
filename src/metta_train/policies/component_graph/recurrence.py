"""Memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.initialization import LstmBiasMode
from metta_train.policies.recurrence import lstm_initial_values, lstm_state_shapes
from metta_train.specs.config_model import ConfigModel


class LSTMParams(ConfigModel):
    """Arguments of nn.LSTM; the input size follows from the source."""

    hidden_size: Annotated[int, Field(gt=0)]
    num_layers: Annotated[int, Field(gt=0)]


class LSTM(Component):
    """`[n]` -> `[hidden_size]`, with a memory that is zeroed where an episode begins.

    Attributes:
        bias_init: forget = 1 in the forget gate's input bias and 0 elsewhere; ones, zeros = everywhere.
    """

    nn_params: LSTMParams
    bias_init: LstmBiasMode = "forget"

    def build(self, site: Site) -> Built:
        (in_features,) = site.one_input(dims=1)
        hidden_size, num_layers = self.nn_params.hidden_size, self.nn_params.num_layers
        return Built(
            module=nn.LSTM(in_features, hidden_size, num_layers, batch_first=True),
            output=Signal((hidden_size,)),
            initial_values=lstm_initial_values(num_layers, self.bias_init),
            state_shapes=lstm_state_shapes(hidden_size, num_layers),
        )
