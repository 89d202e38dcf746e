"""Where every env stands in its episode, written down by the trainer's side: enough to play the episode again.

An episode is a function of its seed and its actions. The seed follows from the number of the episode, so a number and
the actions since its start are all that a checkpoint needs of an env. The log lies with the trainer, which gives the
actions and hears of the endings, so that it survives the death of a worker.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

MAX_STEPS = 1 << 17  # of one episode; a longer one is not written down to its end and cannot be played again
FIRST_CAPACITY = 64  # steps; doubled where episodes are longer
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
    """Numbers and actions of the present episodes; `mark` fixes a moment that `at_mark` can tell of later.

    The actions of all envs stand in one ring by time, so that a step of a slice is one row of it. Old rows are written
    over once no present episode needs them; the ring grows until it is twice as long as the longest one.
    """

    def __init__(self, num_envs: int, num_agents: int, num_actions: int) -> None:
        dtype = np.uint8 if num_actions <= 256 else np.int32
        self._ring = np.zeros((FIRST_CAPACITY, num_envs, num_agents), dtype)
        self._full_at = FIRST_CAPACITY  # the count of steps at which a row is wanted that may still be needed
        self._steps = np.zeros(num_envs, np.int64)  # that each env has taken
        self._starts = np.zeros(num_envs, np.int64)  # its count of steps when the present episode began
        self._episodes = np.zeros(num_envs, np.int64)
        self._apart: tuple[NDArray[np.int64], NDArray[np.generic]] | None  # what `at_mark` tells, once copied
        self.mark()

    def start(self) -> None:
        """All envs are at the start of their episode 0."""
        self._episodes.fill(0)
        self._starts[:] = self._steps

    def acted(self, envs: range, actions: NDArray[np.int32]) -> None:
        """The envs, which always step together, take one step with `actions` [r], r = envs * agents."""
        step = int(self._steps[envs.start])
        if step >= self._full_at:
            self._make_room(step)
        self._ring[step % len(self._ring), envs.start : envs.stop] = actions.reshape(len(envs), -1)
        self._steps[envs.start : envs.stop] = step + 1

    def ended(self, env: int) -> None:
        """The env is at the start of its next episode."""
        self._episodes[env] += 1
        self._starts[env] = self._steps[env]

    def put(self, point: EpisodePoint) -> None:
        """The env is at this point."""
        now = int(self._steps[point.env])
        self._starts[point.env] = now - len(point.actions)
        self._episodes[point.env] = point.episode
        self._make_room(int(self._steps.max()))
        held = min(len(point.actions), len(self._ring))
        self._ring[np.arange(now - held, now) % len(self._ring), point.env] = point.actions[len(point.actions) - held :]

    def present(self, env: int) -> tuple[int, int]:
        """Number of the present episode of one env and the steps since its start."""
        return int(self._episodes[env]), int(self._steps[env] - self._starts[env])

    def mark(self) -> None:
        """From now on `at_mark` tells of this moment."""
        self._apart = None
        self._marked_episodes = self._episodes.copy()
        self._marked_starts = self._starts.copy()
        self._marked_steps = self._steps.copy()

    def at_mark(self, digests: NDArray[np.uint8]) -> VectorSnapshot:
        """Where the envs stood at the last `mark`; `digests` [E, DIGEST_BYTES] of that moment."""
        lengths, actions = self._marked_actions() if self._apart is None else self._apart
        return VectorSnapshot(
            episodes=self._marked_episodes.copy(), lengths=lengths, actions=actions, digests=digests.copy()
        )

    def _marked_actions(self) -> tuple[NDArray[np.int64], NDArray[np.generic]]:
        """Lengths and actions of a snapshot of the mark, from the ring."""
        held = self._steps - self._marked_starts <= len(self._ring)
        lengths = np.where(held, self._marked_steps - self._marked_starts, CANNOT_REPLAY)
        actions = [
            self._ring[np.arange(start, start + max(length, 0)) % len(self._ring), env]
            for env, (start, length) in enumerate(zip(self._marked_starts, lengths, strict=True))
        ]
        return lengths, np.concatenate(actions)

    def _make_room(self, step: int) -> None:
        """Let the ring hold the present episodes up to this count of steps, the highest of any env, and as much more.

        So it is seldom full, and does not grow because nobody marks.
        """
        if self._apart is None:
            self._apart = self._marked_actions()
        needed_from = int(self._starts.min())
        while 2 * (step - needed_from) >= len(self._ring) < MAX_STEPS:
            grown = np.zeros((2 * len(self._ring), *self._ring.shape[1:]), self._ring.dtype)
            held = np.arange(step - len(self._ring), step)
            grown[held % len(grown)] = self._ring[held % len(self._ring)]
            self._ring = grown
        self._full_at = needed_from + len(self._ring) if len(self._ring) < MAX_STEPS else sys.maxsize
