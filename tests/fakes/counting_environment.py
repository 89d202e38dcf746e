"""An environment whose numbers tell the seed and the step they belong to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.environment import EnvBuffers, Environment
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec


class CountingEnvironment(Environment):
    """Observation = (number of resets, step); reward = 10 * step + action; `length` steps long."""

    def __init__(self, length: int, *, truncates: bool, limit: int | None = None) -> None:
        self._length = length
        self._truncates = truncates
        self._limit = limit
        self._step = 0
        self._buffers: EnvBuffers | None = None
        self.seeds: list[int] = []
        self.closed = False

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec("counting", 2, BoxObservation((2,), "float32"), ActionTable.discrete(["a", "b"]))

    @property
    def episode_limit(self) -> int | None:
        return self._limit

    def bind(self, buffers: EnvBuffers) -> None:
        self._buffers = buffers

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)
        self._step = 0
        self._write(np.zeros(2, np.int32))

    def step(self, actions: NDArray[np.int32]) -> None:
        self._step += 1
        self._write(10 * self._step + actions)

    def _write(self, rewards: NDArray[np.int32]) -> None:
        buffers = self._buffers
        assert buffers is not None
        ended = self._step == self._length
        buffers.observations[:] = (len(self.seeds), self._step)
        buffers.rewards[:] = rewards
        buffers.terminations[:] = ended and not self._truncates
        buffers.truncations[:] = ended and self._truncates

    def episode_stats(self) -> Mapping[str, float]:
        return {"game/steps": float(self._step)}

    def close(self) -> None:
        self.closed = True
