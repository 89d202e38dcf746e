"""Everything that a vector env shows during some steps of random actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.build import make_vector_env
from metta_train.envs.config import EnvConfig
from metta_train.specs.records import EpisodeRecord


@dataclass(frozen=True)
class Trajectory:
    """Step-major, rows in order; `finals` by (step, row)."""

    observations: NDArray[np.generic]  # [T + 1, R, ...]
    rewards: NDArray[np.float32]  # [T, R]
    terminations: NDArray[np.bool_]  # [T, R]
    truncations: NDArray[np.bool_]  # [T, R]
    finals: dict[tuple[int, int], NDArray[np.generic]]
    episodes: list[tuple[int, EpisodeRecord]]  # with their step


def random_actions(steps: int, rows: int, num_actions: int) -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, num_actions, (steps, rows))


def trajectory(
    config: EnvConfig, *, num_envs: int, num_workers: int, num_slices: int, steps: int, seed: int = 5, rank: int = 0
) -> Trajectory:
    with make_vector_env(
        config, num_envs=num_envs, num_workers=num_workers, num_slices=num_slices, seed=seed, rank=rank
    ) as envs:
        actions = random_actions(steps, envs.num_rows, len(envs.spec.actions))
        observations = [envs.reset().copy()]
        rewards, terminations, truncations, episodes = [], [], [], []
        finals: dict[tuple[int, int], NDArray[np.generic]] = {}
        for index in range(num_slices):
            envs.send(index, actions[0, envs.slice_rows(index)])
        for step in range(steps):
            parts = []
            for index in range(num_slices):
                part = envs.receive(index)
                parts.append(
                    [part.observations.copy(), part.rewards.copy(), part.terminations.copy(), part.truncations.copy()]
                )
                assert part.rows == envs.slice_rows(index)
                assert part.final_rows.dtype == np.int64 and (np.diff(part.final_rows) > 0).all()
                finals |= {
                    (step, int(row)): final.copy()
                    for row, final in zip(part.final_rows, part.final_observations, strict=True)
                }
                episodes += [(step, episode) for episode in part.episodes]
                if step + 1 < steps:
                    envs.send(index, actions[step + 1, envs.slice_rows(index)])
            for series, arrays in zip(
                (observations, rewards, terminations, truncations), zip(*parts, strict=True), strict=True
            ):
                series.append(np.concatenate(arrays))
    return Trajectory(
        np.stack(observations), np.stack(rewards), np.stack(terminations), np.stack(truncations), finals, episodes
    )
