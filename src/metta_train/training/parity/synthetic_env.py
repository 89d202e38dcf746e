"""A vector env made of a spec alone: observations from a seed, rewards from the actions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.vector import VectorEnv, VectorStep
from metta_train.policies.parity.scenarios import draw_observations
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import EpisodeRecord

POOL = 64  # different observations
ENDING = 0.2  # share of env steps that end an episode; half of them by a time limit


class SyntheticEnv(VectorEnv):
    """Uses every part of the contract: rewards for actions, terminations, truncations, final observations.

    What is observed does not depend on the actions, so policies that act differently still see the same.
    """

    def __init__(self, spec: EnvironmentSpec, *, num_envs: int, seed: int) -> None:
        super().__init__(spec, num_envs=num_envs, num_slices=1)
        self._draw = np.random.default_rng(derived_seed(seed, "parity", "env"))
        self._pool = draw_observations(spec, POOL, self._draw)
        self._preferred = self._draw.integers(0, len(spec.actions), POOL)  # the action that each observation rewards
        self._shown = np.zeros(self.num_rows, dtype=np.int64)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._actions: NDArray[np.integer] | None = None

    def reset(self) -> NDArray[np.generic]:
        self._shown = self._draw.integers(0, POOL, self.num_rows)
        self._lengths[:] = 0
        return self._pool[self._shown]

    def send(self, index: int, actions: NDArray[np.int32] | NDArray[np.int64]) -> None:
        assert index == 0 and self._actions is None
        self._actions = actions.copy()

    def receive(self, index: int) -> VectorStep:
        assert index == 0 and self._actions is not None
        rewards = np.where(self._actions == self._preferred[self._shown], 1.0, -0.1).astype(np.float32)
        self._actions = None
        self._lengths += 1
        chance = self._draw.random(self.num_envs)
        agents = self.spec.num_agents
        terminations = np.repeat(chance < ENDING / 2, agents)
        truncations = np.repeat((chance >= ENDING / 2) & (chance < ENDING), agents)
        final_rows = (terminations | truncations).nonzero()[0]
        final_observations = self._pool[self._draw.integers(0, POOL, len(final_rows))]
        self._shown = self._draw.integers(0, POOL, self.num_rows)
        episodes = []
        for env in (chance < ENDING).nonzero()[0].tolist():
            cut = bool(truncations[env * agents])
            episodes.append(EpisodeRecord(env, int(self._lengths[env]), reward=0.0, truncated=cut, shortened=False))
            self._lengths[env] = 0
        return VectorStep(
            rows=self.slice_rows(0),
            observations=self._pool[self._shown],
            rewards=rewards,
            terminations=terminations,
            truncations=truncations,
            final_rows=final_rows,
            final_observations=final_observations,
            episodes=tuple(episodes),
        )

    def close(self) -> None:
        """Nothing to close."""
