"""What in-process and worker envs have in common: shared buffers, the log of actions, and the way back to a point."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.episode_log import CANNOT_REPLAY, DIGEST_BYTES, EpisodeLog, EpisodePoint, VectorSnapshot
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.vector import RestoredEnvs, ResumableVectorEnv, VectorStep
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


class LoggedVectorEnv(ResumableVectorEnv):
    """Backends say how slots are reset, stepped and put at a point of their streams; they write into `_buffers`."""

    def __init__(self, spec: EnvironmentSpec, buffers: RowBuffers, *, num_envs: int, num_slices: int) -> None:
        super().__init__(spec, num_envs=num_envs, num_slices=num_slices)
        self._buffers = buffers
        self._log = EpisodeLog(num_envs, spec.num_agents, len(spec.actions))
        self._in_flight = [False] * num_slices
        # Hashed only when somebody asks: a copy costs an epoch a hundred times less.
        self._marked_observations = np.zeros_like(buffers.observations)
        self._can_replay = False  # until the backend has seen an environment

    @abstractmethod
    def _reset(self) -> None:
        """Put every slot at the start of its stream."""

    @abstractmethod
    def _send(self, index: int) -> None:
        """Begin a step of a slice; the actions are in `_buffers`."""

    @abstractmethod
    def _receive(self, index: int) -> Sequence[EpisodeRecord]:
        """Wait for that step; the episodes that ended in it, in the order of their envs."""

    @abstractmethod
    def _restore(self, points: Sequence[EpisodePoint]) -> None:
        """Put slots at these points by playing their episodes again; rewards and flags of the play mean nothing.

        An episode that ends on the way leaves its slot at another point; the observations tell.
        """

    def reset(self) -> NDArray[np.generic]:
        assert not any(self._in_flight), "reset while a slice is in flight"
        self._reset()
        self._log.start()
        self.mark()
        return self._buffers.observations

    def send(self, index: int, actions: NDArray[np.int32] | NDArray[np.int64]) -> None:
        assert not self._in_flight[index], f"slice {index} was sent actions twice"
        rows = self._buffers.actions[self.slice_rows(index)]
        rows[:] = actions
        self._in_flight[index] = True
        self._log.acted(self.slice_envs(index), rows)
        self._send(index)

    def receive(self, index: int) -> VectorStep:
        assert self._in_flight[index], f"slice {index} was not sent actions"
        episodes = self._receive(index)
        self._in_flight[index] = False
        for episode in episodes:
            self._log.ended(episode.env)
        return self._buffers.step_of(self.slice_rows(index), episodes)

    def mark(self) -> None:
        assert not any(self._in_flight), "mark while a slice is in flight"
        self._log.mark()
        np.copyto(self._marked_observations, self._buffers.observations)

    def snapshot(self) -> VectorSnapshot:
        digests = [self._digest(self._marked_observations, env) for env in range(self.num_envs)]
        return self._log.at_mark(np.stack(digests))

    def restore(self, snapshot: VectorSnapshot) -> RestoredEnvs:
        assert not any(self._in_flight), "restore while a slice is in flight"
        if snapshot.num_envs != self.num_envs or snapshot.actions.shape[1:] != (self.spec.num_agents,):
            snapshot = snapshot.without_actions(self.num_envs)
        points = [
            EpisodePoint(env, int(snapshot.episodes[env]), snapshot.actions_of(env))
            if self._can_replay and snapshot.lengths[env] != CANNOT_REPLAY
            else self._next_episode(snapshot, env)
            for env in range(self.num_envs)
        ]
        for point in points:
            self._log.put(point)
        self._restore(points)
        played = [point.env for point in points if point.episode == snapshot.episodes[point.env]]
        differing = [
            env
            for env in played
            if not np.array_equal(self._digest(self._buffers.observations, env), snapshot.digests[env])
        ]
        if differing:
            instead = [self._next_episode(snapshot, env) for env in differing]
            for point in instead:
                self._log.put(point)
            self._restore(instead)
        opened = sorted({*range(self.num_envs)} - {*played} | {*differing})
        self.mark()
        return RestoredEnvs(observations=self._buffers.observations, opened=tuple(opened), differing=tuple(differing))

    def _next_episode(self, snapshot: VectorSnapshot, env: int) -> EpisodePoint:
        return EpisodePoint(env, int(snapshot.episodes[env]) + 1, np.zeros((0, self.spec.num_agents), np.uint8))

    def _digest(self, observations: NDArray[np.generic], env: int) -> NDArray[np.uint8]:
        own = observations[self._buffers.env_rows(env)]
        return np.frombuffer(hashlib.blake2b(own.tobytes(), digest_size=DIGEST_BYTES).digest(), np.uint8)
