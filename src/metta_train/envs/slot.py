"""One env slot of a vector env: an environment, its seeds, and its endings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.environment import EnvBuffers, Environment
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import EpisodeRecord


class EnvSlot:
    """Steps one environment and resets it in the step in which its episode ends.

    After an ending the bound buffers hold the first observation of the next episode together with the rewards and
    flags of the step that ended the old one; the last observation of the old episode lies in `final_observations`.
    What a slot experiences depends on (seed, rank, slot) and on the actions alone.
    """

    def __init__(
        self,
        environment: Environment,
        buffers: EnvBuffers,
        final_observations: NDArray[np.generic],
        *,
        slot: int,
        seed: int,
        rank: int,
        desync_episodes: bool,
    ) -> None:
        self._environment = environment
        self._buffers = buffers
        self._final_observations = final_observations
        self._slot = slot
        self._path = (seed, "rank", rank, "env", slot)
        # A first episode that ends at a random step spreads the resets of the envs over time.
        self._first_length: int | None = None
        limit = environment.episode_limit
        if desync_episodes and limit is not None:
            first_length = 1 + derived_seed(*self._path, "first_length") % limit
            self._first_length = first_length if first_length < limit else None
        self._episode = 0
        self._length = 0
        self._lost = False
        self._returns = np.zeros(buffers.rewards.shape, np.float64)
        # Saved across the reset that overwrites them.
        self._rewards = np.zeros_like(buffers.rewards)
        self._terminations = np.zeros_like(buffers.terminations)
        self._truncations = np.zeros_like(buffers.truncations)
        environment.bind(buffers)

    def reset(self) -> None:
        """Start the slot's stream of episodes from its beginning."""
        self._episode = 0
        self._lost = False
        self._start_episode()

    @property
    def can_replay(self) -> bool:
        """Whether `restore` brings an episode back."""
        return self._environment.can_replay

    def restore(self, episode: int, actions: NDArray[np.generic]) -> None:
        """Play an episode again: `actions` [L, A] from its start; stops if it ends, which the original did not."""
        self._episode = episode
        self._lost = False
        self._start_episode()
        for step in actions.astype(np.int32):
            if self._play(step):
                return

    def lose(self, episode: int, length: int) -> None:
        """The slot stood at this point when its process died; the next step is the last one of that episode."""
        self._episode = episode
        self._length = length
        self._returns.fill(0.0)
        self._lost = True

    def step(self, actions: NDArray[np.int32]) -> EpisodeRecord | None:
        """One step; the record of the episode if it ended in this step."""
        buffers = self._buffers
        if self._lost:
            return self._finish_lost()
        ended = self._play(actions)
        shortened = self._episode == 0 and self._length == self._first_length and not ended
        if shortened:
            buffers.truncations.fill(True)
        elif not ended:
            return None
        return self._finish_episode(stats=dict(self._environment.episode_stats()), shortened=shortened)

    def close(self) -> None:
        self._environment.close()

    def _play(self, actions: NDArray[np.int32]) -> bool:
        self._environment.step(actions)
        self._returns += self._buffers.rewards
        self._length += 1
        return bool(self._buffers.terminations[0] or self._buffers.truncations[0])

    def _finish_lost(self) -> EpisodeRecord:
        """What the environment did last is not known: the observations stay, nothing is earned, the episode is cut."""
        self._lost = False
        self._buffers.rewards.fill(0.0)
        self._buffers.terminations.fill(False)
        self._buffers.truncations.fill(True)
        return self._finish_episode(stats={}, shortened=True)

    def _start_episode(self) -> None:
        self._length = 0
        self._returns.fill(0.0)
        self._environment.reset(derived_seed(*self._path, "episode", self._episode))

    def _finish_episode(self, *, stats: dict[str, float], shortened: bool) -> EpisodeRecord:
        buffers = self._buffers
        ends = buffers.terminations | buffers.truncations
        assert ends.all(), f"env {self._slot}: the agents of one env end their episodes together, got {ends}"
        record = EpisodeRecord(
            env=self._slot,
            length=self._length,
            reward=float(self._returns.mean()),
            truncated=bool(not buffers.terminations.any()),
            shortened=shortened,
            stats=stats,
        )
        self._final_observations[...] = buffers.observations
        self._rewards[:] = buffers.rewards
        self._terminations[:] = buffers.terminations
        self._truncations[:] = buffers.truncations
        self._episode += 1
        self._start_episode()
        buffers.rewards[:] = self._rewards
        buffers.terminations[:] = self._terminations
        buffers.truncations[:] = self._truncations
        return record
