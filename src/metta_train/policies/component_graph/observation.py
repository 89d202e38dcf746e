"""From observations to the first box or vector."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.observation import TokenBox
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import BoxObservation, TokenObservation


class ObsTokenToBoxParams(ConfigModel):
    """`normalize: false` leaves raw values, for an ObservationNormalizer behind it."""

    normalize: bool = True


class ObsTokenToBox(Component):
    """Tokens -> `[channels, window_height, window_width]`, scaled by the features' normalizations."""

    nn_params: ObsTokenToBoxParams = ObsTokenToBoxParams()

    def build(self, site: Site) -> Built:
        observation = _token_observation(site)
        if site.one_input() != observation.shape:
            raise ValueError(f"its source must be observations {list(observation.shape)}, got {site.inputs[0]}")
        box = TokenBox(observation, normalize=self.nn_params.normalize)
        return Built(box, Signal((observation.num_channels, observation.window_height, observation.window_width)))


class ObservationNormalizer(Component):
    """Divides the channels of a raw box by their features' normalizations (categorical channels stay as they are)."""

    def build(self, site: Site) -> Built:
        observation = _token_observation(site)
        shape = site.one_input(dims=3)
        if shape[0] != observation.num_channels:
            raise ValueError(f"its source must be a box of {observation.num_channels} channels, got {site.inputs[0]}")
        divisors = [
            1.0 if feature.categories else feature.normalization
            for feature in observation.features
            for _ in range(feature.num_channels)
        ]
        return Built(_Divide(divisors), Signal(shape))


class _Divide(nn.Module):
    divisors: Tensor

    def __init__(self, divisors: list[float]) -> None:
        super().__init__()
        self.register_buffer("divisors", torch.tensor(divisors).view(-1, 1, 1), persistent=False)

    def forward(self, box: Tensor) -> Tensor:
        return box / self.divisors


class ObsVectorParams(ConfigModel):
    """Every value is divided by this."""

    normalization: Annotated[float, Field(gt=0.0)] = 1.0


class ObsVector(Component):
    """A box observation of any shape and type -> float32 `[n]`."""

    nn_params: ObsVectorParams = ObsVectorParams()

    def build(self, site: Site) -> Built:
        observation = site.spec.observation
        if not isinstance(observation, BoxObservation):
            raise ValueError(
                f"reads box observations, but environment {site.spec.name!r} has tokens; choose agent=fast"
            )
        if site.one_input() != observation.shape:
            raise ValueError(f"its source must be observations {list(observation.shape)}, got {site.inputs[0]}")
        return Built(_Vector(self.nn_params.normalization), Signal((site.inputs[0].size,)))


class _Vector(nn.Module):
    def __init__(self, normalization: float) -> None:
        super().__init__()
        self._normalization = normalization

    def forward(self, observations: Tensor) -> Tensor:
        return observations.reshape(observations.shape[0], -1).float() / self._normalization


def _token_observation(site: Site) -> TokenObservation:
    observation = site.spec.observation
    if not isinstance(observation, TokenObservation):
        raise ValueError(
            f"reads token observations, but environment {site.spec.name!r} has "
            f"{type(observation).__name__}(shape={list(observation.shape)}); choose agent=mlp"
        )
    return observation
