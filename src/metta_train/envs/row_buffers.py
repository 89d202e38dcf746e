"""The arrays of all rows of a vector env, over memory of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.environment import EnvBuffers
from metta_train.envs.packed_arrays import ArrayLayout, packed_arrays, packed_bytes
from metta_train.envs.vector import VectorStep
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


@dataclass(frozen=True, slots=True)
class RowBuffers:
    """R rows; every array is a view of one block of memory."""

    num_agents: int
    observations: NDArray[np.generic]  # [R, ...]
    final_observations: NDArray[np.generic]  # [R, ...]
    rewards: NDArray[np.float32]  # [R]
    terminations: NDArray[np.bool_]  # [R]
    truncations: NDArray[np.bool_]  # [R]
    actions: NDArray[np.int32]  # [R]

    @staticmethod
    def num_bytes(spec: EnvironmentSpec, num_envs: int) -> int:
        """Size of the block that `over` needs."""
        return packed_bytes(_layouts(spec, num_envs))

    @classmethod
    def over(cls, memory: mmap | bytearray, spec: EnvironmentSpec, num_envs: int) -> RowBuffers:
        """Views of `memory`, which holds zeros."""
        return cls(spec.num_agents, *packed_arrays(memory, _layouts(spec, num_envs)))

    def env_rows(self, env: int) -> slice:
        return slice(env * self.num_agents, (env + 1) * self.num_agents)

    def of_env(self, env: int) -> EnvBuffers:
        """The views that one environment writes to."""
        rows = self.env_rows(env)
        return EnvBuffers(
            observations=self.observations[rows],
            rewards=self.rewards[rows],
            terminations=self.terminations[rows],
            truncations=self.truncations[rows],
        )

    def step_of(self, rows: slice, episodes: Sequence[EpisodeRecord]) -> VectorStep:
        """The step that the environments of `rows` have just written; `episodes` in the order of their envs."""
        agents = np.arange(self.num_agents, dtype=np.int64)
        envs = np.array([episode.env for episode in episodes], dtype=np.int64)
        final_rows = (envs[:, None] * self.num_agents + agents).reshape(-1)
        return VectorStep(
            rows=rows,
            observations=self.observations[rows],
            rewards=self.rewards[rows],
            terminations=self.terminations[rows],
            truncations=self.truncations[rows],
            final_rows=final_rows,
            final_observations=self.final_observations[final_rows],
            episodes=tuple(episodes),
        )


def _layouts(spec: EnvironmentSpec, num_envs: int) -> list[ArrayLayout]:
    rows = num_envs * spec.num_agents
    observations = (spec.observation.dtype, (rows, *spec.observation.shape))
    return [
        observations,
        observations,
        ("float32", (rows,)),
        ("bool", (rows,)),
        ("bool", (rows,)),
        ("int32", (rows,)),
    ]
