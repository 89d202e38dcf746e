"""Environments that step inside the trainer's process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metta_train.envs.environment import Environment
from metta_train.envs.episode_log import EpisodePoint
from metta_train.envs.logged_vector import LoggedVectorEnv
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.slot import EnvSlot
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


class InProcessVectorEnv(LoggedVectorEnv):
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
        buffers = RowBuffers.over(bytearray(RowBuffers.num_bytes(spec, num_envs)), spec, num_envs)
        super().__init__(spec, buffers, num_envs=num_envs, num_slices=num_slices)
        self._slots = [
            EnvSlot(
                make_environment(),
                buffers.of_env(env),
                buffers.final_observations[buffers.env_rows(env)],
                slot=env,
                seed=seed,
                rank=rank,
                desync_episodes=desync_episodes,
            )
            for env in range(num_envs)
        ]
        self._can_replay = all(slot.can_replay for slot in self._slots)
        self._finished: list[list[EpisodeRecord]] = [[] for _ in range(num_slices)]

    def _reset(self) -> None:
        for slot in self._slots:
            slot.reset()

    def _send(self, index: int) -> None:
        buffers = self._buffers
        finished = []
        for env in self.slice_envs(index):
            record = self._slots[env].step(buffers.actions[buffers.env_rows(env)])
            if record is not None:
                finished.append(record)
        self._finished[index] = finished

    def _receive(self, index: int) -> Sequence[EpisodeRecord]:
        return self._finished[index]

    def _restore(self, points: Sequence[EpisodePoint]) -> None:
        for point in points:
            self._slots[point.env].restore(point.episode, point.actions)

    def close(self) -> None:
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.close()
