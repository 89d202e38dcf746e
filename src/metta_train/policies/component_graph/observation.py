"""From observations to the first box or vector."""

from __future__ import annotations

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.observation import TokenBox
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import TokenObservation


class ObsTokenToBoxParams(ConfigModel):
    """`normalize: false` leaves raw values, for an ObservationNormalizer behind it."""

    normalize: bool = True


class ObsTokenToBox(Component):
    """Tokens -> `[channels, window_height, window_width]`, scaled by the features' normalizations."""

    nn_params: ObsTokenToBoxParams = ObsTokenToBoxParams()

    def build(self, site: Site) -> Built:
        observation = token_input(site)
        box = TokenBox(observation, normalize=self.nn_params.normalize)
        return Built(box, Signal((observation.num_channels, observation.window_height, observation.window_width)))


def token_input(site: Site) -> TokenObservation:
    """The spec's observation, checked to be the component's only source. Raises ValueError."""
    observation = site.spec.observation
    if not isinstance(observation, TokenObservation):
        raise ValueError(
            f"reads token observations, but environment {site.spec.name!r} has "
            f"{type(observation).__name__}(shape={list(observation.shape)}); choose agent=mlp"
        )
    if site.one_input() != observation.shape:
        raise ValueError(f"its source must be observations {list(observation.shape)}, got {site.inputs[0]}")
    return observation
