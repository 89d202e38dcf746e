"""An environment that someone watches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.environment import EnvBuffers, Environment
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.scene import Scene

Note = Mapping[str, object]  # what a policy tells about one agent's step; plain data


class Recorder(ABC):
    """Writes one episode down while it is played."""

    @abstractmethod
    def step(self, notes: Sequence[Note]) -> None:
        """The environment has made a step; one note per agent about the decision that led to it."""

    @abstractmethod
    def finish(self) -> bytes:
        """The file of all steps so far, `.json.z`; asked for once, before the next reset."""


class Stage(ABC):
    """One environment, and beside it what a spectator sees of its present step. Reset comes before looking."""

    @property
    @abstractmethod
    def environment(self) -> Environment: ...

    def scene(self) -> Scene | None:
        """The grid; None where the environment is no grid world."""
        return None

    def image(self) -> NDArray[np.uint8] | None:
        """The environment's own picture [height, width, 3]; None where it draws none."""
        return None

    def recorder(self) -> Recorder:
        """A recorder of the episode that was just reset. Raises ConfigError where no replay format exists."""
        raise ConfigError(
            f"env {self.environment.spec.name}: has no replay format (MettaGrid games have one); --gif makes a picture"
        )


class PlainStage(Stage):
    """An environment of which there is nothing to see but its numbers."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    @property
    def environment(self) -> Environment:
        return self._environment


def buffers_for(spec: EnvironmentSpec) -> EnvBuffers:
    """Buffers of one environment alone."""
    return EnvBuffers(
        observations=np.zeros((spec.num_agents, *spec.observation.shape), spec.observation.dtype),
        rewards=np.zeros(spec.num_agents, np.float32),
        terminations=np.zeros(spec.num_agents, np.bool_),
        truncations=np.zeros(spec.num_agents, np.bool_),
    )
