"""Normalization and dropout.

PPO's ratio compares log-probs of the same network, so a policy runs in one mode (see `Policy`): dropout passes its
input on, and batch norm uses its stored statistics, mean 0 and variance 1, which makes it a learned scale and shift per
channel. Building one of them logs a warning; LayerNorm is the normalization that works in a policy.
"""

from __future__ import annotations

import logging
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.initialization import Constant, Zeros
from metta_train.specs.config_model import ConfigModel

logger = logging.getLogger(__name__)


class LayerNormParams(ConfigModel):
    """Added to the variance."""

    eps: Annotated[float, Field(gt=0.0)] = 1e-5


class LayerNorm(Component):
    """Any shape, normalized over all of it per row, with a learned scale and shift per value."""

    nn_params: LayerNormParams = LayerNormParams()

    def build(self, site: Site) -> Built:
        shape = site.one_input()
        return Built(
            nn.LayerNorm(list(shape), eps=self.nn_params.eps),
            Signal(shape),
            initial_values={"weight": Constant(1.0), "bias": Zeros()},
        )


class BatchNorm(Component):
    """Normalizes with stored statistics (see the module)."""

    dims: ClassVar[int]
    module_class: ClassVar[type[nn.BatchNorm1d | nn.BatchNorm2d]]

    def build(self, site: Site) -> Built:
        shape = site.one_input(dims=self.dims)
        logger.warning(
            "%s does not normalize with the statistics of the batch: a policy runs in one mode, in rollout and "
            "training; LayerNorm normalizes each row",
            type(self).__name__,
        )
        return Built(
            self.module_class(shape[0]),
            Signal(shape),
            initial_values={"weight": Constant(1.0), "bias": Zeros()},
        )


class BatchNorm1d(BatchNorm):
    """`[n]`."""

    dims = 1
    module_class = nn.BatchNorm1d


class BatchNorm2d(BatchNorm):
    """`[channels, height, width]`."""

    dims = 3
    module_class = nn.BatchNorm2d


class DropoutParams(ConfigModel):
    """`p`: share of values that dropout would drop."""

    p: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5


class Dropout(Component):
    """Passes its input on (see the module)."""

    module_class: ClassVar[type[nn.Module]] = nn.Dropout
    nn_params: DropoutParams = DropoutParams()

    def build(self, site: Site) -> Built:
        shape = site.one_input()
        logger.warning(
            "%s drops nothing: a policy runs in one mode, so that training sees the network that acted",
            type(self).__name__,
        )
        return Built(self.module_class(self.nn_params.p), Signal(shape))


class Dropout2d(Dropout):
    """Passes its input on (see the module)."""

    module_class = nn.Dropout2d


class AlphaDropout(Dropout):
    """Passes its input on (see the module)."""

    module_class = nn.AlphaDropout
