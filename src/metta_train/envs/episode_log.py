"""Where every env stands in its episode, written down by the trainer's side: enough to play the episode again.

An episode is a function of its seed and its actions. The seed follows from the number of the episode, so a number and
the actions since its start are all that a checkpoint needs of an env. The log lies with the trainer, which gives the
actions and hears of the endings, so that it survives the death of a worker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

MAX_STEPS = 1 << 17  # of one episode; a longer one is not written down to its end and cannot be played again
FIRST_CAPACITY = 64  # steps; doubled as episodes turn out longer
CANNOT_REPLAY = -1
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class VectorSnapshot:
    """Where E envs of A agents stand, at a moment when none is stepping."""

    episodes: NDArray[np.int64]  # [E] number of the present episode, from 0
    lengths: NDArray[np.int64]  # [E] steps since its start; CANNOT_REPLAY: its actions are not known
    actions: NDArray[np.generic]  # [sum of known lengths, A] of one env after the other; the smallest dtype that fits
    digests: NDArray[np.uint8]  # [E, DIGEST_BYTES] hash of the present observations of its agents

    @property
    def num_envs(self) -> int:
        return len(self.episodes)

    def actions_of(self, env: int) -> NDArray[np.generic]:
        """[L, A]: the actions of the present episode of one env; none where they are not known."""
        known = np.maximum(self.lengths, 0)
        start = int(known[:env].sum())
        return self.actions[start : start + int(known[env])]

    def without_actions(self, num_envs: int) -> VectorSnapshot:
        """The same numbers for another number of envs, each of which has to open its next episode."""
        kept = min(num_envs, self.num_envs)
        episodes = np.full(num_envs, -1, np.int64)  # an env that is new opens its episode 0
        episodes[:kept] = self.episodes[:kept]
        return replace(
            self,
            episodes=episodes,
            lengths=np.full(num_envs, CANNOT_REPLAY, np.int64),
            actions=self.actions[:0],
            digests=np.zeros((num_envs, DIGEST_BYTES), np.uint8),
        )


@dataclass(frozen=True, slots=True)
class EpisodePoint:
    """A place in the stream of episodes of one env."""

    env: int
    episode: int
    actions: NDArray[np.generic]  # [L, A] since its start


class EpisodeLog:
    """Numbers and actions of the present episodes; `mark` fixes a moment that `at_mark` can tell of later."""

    def __init__(self, num_envs: int, num_agents: int, num_actions: int) -> None:
        dtype = np.uint8 if num_actions <= 256 else np.int32
        self._actions = np.zeros((num_envs, FIRST_CAPACITY, num_agents), dtype)
        self._episodes = np.zeros(num_envs, np.int64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._marked_episodes = self._episodes.copy()
        self._marked_lengths = self._lengths.copy()
        # Actions of marked episodes that have ended since; the others are still in `_actions`.
        self._ended: dict[int, NDArray[np.generic]] = {}

    def start(self) -> None:
        """All envs are at the start of their episode 0."""
        self._episodes.fill(0)
        self._lengths.fill(0)

    def acted(self, envs: range, actions: NDArray[np.int32]) -> None:
        """The envs take one step with `actions` [r], r = envs * agents."""
        lengths = self._lengths[envs.start : envs.stop]
        if lengths.max() >= self._capacity:
            self._grow()
        steps = actions.reshape(len(envs), -1)
        numbers = np.arange(envs.start, envs.stop)
        if lengths.max() >= self._capacity:
            room = lengths < self._capacity
            self._actions[numbers[room], lengths[room]] = steps[room]
        else:
            self._actions[numbers, lengths] = steps
        lengths += 1

    def ended(self, env: int) -> None:
        """The env is at the start of its next episode."""
        if self._episodes[env] == self._marked_episodes[env] and env not in self._ended:
            self._ended[env] = self._actions[env, : self._marked_lengths[env]].copy()
        self._episodes[env] += 1
        self._lengths[env] = 0

    def put(self, point: EpisodePoint) -> None:
        """The env is at this point."""
        length = len(point.actions)
        while length > self._capacity:
            self._grow()
        self._actions[point.env, :length] = point.actions
        self._episodes[point.env] = point.episode
        self._lengths[point.env] = length

    def present(self, env: int) -> tuple[int, int]:
        """Number of the present episode of one env and the steps since its start."""
        return int(self._episodes[env]), int(self._lengths[env])

    def mark(self) -> None:
        """From now on `at_mark` tells of this moment."""
        self._marked_episodes[:] = self._episodes
        self._marked_lengths[:] = self._lengths
        self._ended.clear()

    def at_mark(self, digests: NDArray[np.uint8]) -> VectorSnapshot:
        """Where the envs stood at the last `mark`; `digests` [E, DIGEST_BYTES] of that moment."""
        lengths = np.where(self._marked_lengths > self._capacity, CANNOT_REPLAY, self._marked_lengths)
        actions = [
            self._ended[env] if env in self._ended else self._actions[env, : max(int(length), 0)]
            for env, length in enumerate(lengths)
        ]
        return VectorSnapshot(
            episodes=self._marked_episodes.copy(),
            lengths=lengths,
            actions=np.concatenate(actions),
            digests=digests.copy(),
        )

    @property
    def _capacity(self) -> int:
        return self._actions.shape[1]

    def _grow(self) -> None:
        num_envs, capacity, num_agents = self._actions.shape
        if capacity >= MAX_STEPS:
            return
        grown = np.zeros((num_envs, 2 * capacity, num_agents), self._actions.dtype)
        grown[:, :capacity] = self._actions
        self._actions = grown
