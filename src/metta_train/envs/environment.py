"""One environment instance: agents that act together and share their episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta_train.specs.environment_spec import EnvironmentSpec


@dataclass(frozen=True, slots=True)
class EnvBuffers:
    """Where an environment writes; A agents. The arrays may be views of larger ones or of shared memory."""

    observations: NDArray[np.generic]  # [A, ...], dtype and shape of the spec's observation
    rewards: NDArray[np.float32]  # [A]
    terminations: NDArray[np.bool_]  # [A]
    truncations: NDArray[np.bool_]  # [A]


class Environment(ABC):
    """Writes into bound buffers and never resets itself.

    The call order is `bind`, then `reset`, then `step` until all agents terminate or truncate in one step, then
    `reset` again. A reset overwrites all buffers: the first observations, zero rewards, no flags.
    """

    @property
    def can_replay(self) -> bool:
        """Whether the same seed and actions bring the same episode, to the bit; no promise is the safe answer."""
        return False

    @property
    @abstractmethod
    def spec(self) -> EnvironmentSpec: ...

    @property
    @abstractmethod
    def episode_limit(self) -> int | None:
        """Steps after which an episode ends at the latest; None when unknown."""

    @abstractmethod
    def bind(self, buffers: EnvBuffers) -> None:
        """Write here from the next reset on."""

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Start the episode that belongs to `seed` (0 <= seed < 2**63)."""

    @abstractmethod
    def step(self, actions: NDArray[np.int32]) -> None:
        """One step of every agent; `actions` [A] are indices of the spec's action table. Writes all buffers."""

    @abstractmethod
    def episode_stats(self) -> Mapping[str, float]:
        """The environment's own statistics of the episode so far; asked for at its end, before the reset."""

    @abstractmethod
    def close(self) -> None: ...
