"""Environments that step inside the trainer's process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.environment import Environment
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.slot import EnvSlot
from metta_train.envs.vector import VectorEnv, VectorStep
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


class InProcessVectorEnv(VectorEnv):
    """`send` does the work; `receive` hands out what it wrote."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        make_environment: Callable[[], Environment],
        *,
        num_envs: int,
        num_slices: int,
        seed: int,
        rank: int,
        desync_episodes: bool,
    ) -> None:
        super().__init__(spec, num_envs=num_envs, num_slices=num_slices)
        self._buffers = RowBuffers.over(bytearray(RowBuffers.num_bytes(spec, num_envs)), spec, num_envs)
        self._slots = [
            EnvSlot(
                make_environment(),
                self._buffers.of_env(env),
                self._buffers.final_observations[self._buffers.env_rows(env)],
                slot=env,
                seed=seed,
                rank=rank,
                desync_episodes=desync_episodes,
            )
            for env in range(num_envs)
        ]
        self._finished: list[list[EpisodeRecord] | None] = [None] * num_slices

    def reset(self) -> NDArray[np.generic]:
        self._finished = [None] * self.num_slices
        for slot in self._slots:
            slot.reset()
        return self._buffers.observations

    def send(self, index: int, actions: NDArray[np.int32] | NDArray[np.int64]) -> None:
        assert self._finished[index] is None, f"slice {index} was sent actions twice"
        buffers = self._buffers
        buffers.actions[self.slice_rows(index)] = actions
        finished = []
        for env in self.slice_envs(index):
            record = self._slots[env].step(buffers.actions[buffers.env_rows(env)])
            if record is not None:
                finished.append(record)
        self._finished[index] = finished

    def receive(self, index: int) -> VectorStep:
        finished = self._finished[index]
        assert finished is not None, f"slice {index} was not sent actions"
        self._finished[index] = None
        return self._buffers.step_of(self.slice_rows(index), finished)

    def close(self) -> None:
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.close()
