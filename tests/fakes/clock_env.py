"""A vector env whose every number says when and where it arose, so that a shifted index is visible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.vector import VectorEnv, VectorStep
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


class ClockEnv(VectorEnv):
    """Observation = (row, episode, step in the episode); reward = row + step / 100 + action / 10000.

    Args:
        lengths: episode length of each env; env e ends every `lengths[e]` steps.
        truncates: per env, whether its endings are truncations (else terminations).
        num_agents: agents per env.
        num_slices: equal, contiguous groups of envs.
    """

    def __init__(
        self, lengths: Sequence[int], truncates: Sequence[bool], num_agents: int = 2, num_slices: int = 1
    ) -> None:
        self._lengths = tuple(lengths)
        self._truncates = tuple(truncates)
        spec = EnvironmentSpec(
            "clock", num_agents, BoxObservation((3,), "float32"), ActionTable.discrete(["a", "b", "c"])
        )
        super().__init__(spec, num_envs=len(lengths), num_slices=num_slices)
        self._clocks = np.zeros(len(lengths), dtype=np.int64)
        self._episodes = np.zeros(len(lengths), dtype=np.int64)
        self._pending: dict[int, NDArray[np.int64]] = {}
        self.closed = False

    def reset(self) -> NDArray[np.float32]:
        return np.concatenate([self._observation(env) for env in range(self.num_envs)])

    def send(self, index: int, actions: NDArray[np.integer]) -> None:
        assert index not in self._pending
        self._pending[index] = actions.astype(np.int64).copy()

    def receive(self, index: int) -> VectorStep:
        actions = self._pending.pop(index)
        rows = self.slice_rows(index)
        agents = self.spec.num_agents
        observations, rewards, terminations, truncations = [], [], [], []
        final_rows, final_observations, episodes = [], [], []
        for env in range(rows.start // agents, rows.stop // agents):
            own = slice(env * agents - rows.start, (env + 1) * agents - rows.start)
            row_numbers = np.arange(env * agents, (env + 1) * agents)
            rewards.append(row_numbers + self._clocks[env] / 100 + actions[own] / 10000)
            self._clocks[env] += 1
            ended = self._clocks[env] == self._lengths[env]
            terminations.append(np.full(agents, ended and not self._truncates[env]))
            truncations.append(np.full(agents, ended and self._truncates[env]))
            if ended:
                final_rows.append(row_numbers)
                final_observations.append(self._observation(env))
                episodes.append(
                    EpisodeRecord(env, self._lengths[env], reward=1.0, truncated=self._truncates[env], shortened=False)
                )
                self._clocks[env] = 0
                self._episodes[env] += 1
            observations.append(self._observation(env))
        return VectorStep(
            rows=rows,
            observations=np.concatenate(observations),
            rewards=np.concatenate(rewards).astype(np.float32),
            terminations=np.concatenate(terminations),
            truncations=np.concatenate(truncations),
            final_rows=np.concatenate(final_rows) if final_rows else np.zeros(0, dtype=np.int64),
            final_observations=(
                np.concatenate(final_observations) if final_observations else np.zeros((0, 3), dtype=np.float32)
            ),
            episodes=tuple(episodes),
        )

    def close(self) -> None:
        self.closed = True

    def _observation(self, env: int) -> NDArray[np.float32]:
        agents = self.spec.num_agents
        rows = np.arange(env * agents, (env + 1) * agents)
        clock = np.full(agents, self._clocks[env])
        episode = np.full(agents, self._episodes[env])
        return np.stack([rows, episode, clock], axis=1).astype(np.float32)
