"""A vector env that is brought back goes on as if it had never stopped."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from metta_train.envs.build import make_vector_env
from metta_train.envs.config import EnvConfig
from metta_train.envs.episode_log import VectorSnapshot
from metta_train.envs.vector import ResumableVectorEnv, WorkerError
from metta_train.envs.workers import WorkerVectorEnv
from metta_train.specs.records import EpisodeRecord
from tests.envs.env_configs import env_config, tiny_forage
from tests.envs.trajectories import random_actions

CONFIGS = {"forage": tiny_forage({"task.max_steps": 9}), "gymnasium": env_config("gymnasium")}
ENVS = 4


def vector_env(config: EnvConfig, *, workers: int = 0, slices: int = 1, envs: int = ENVS) -> ResumableVectorEnv:
    return make_vector_env(config, num_envs=envs, num_workers=workers, num_slices=slices, seed=5)


def play(
    envs: ResumableVectorEnv, actions: NDArray[np.int64]
) -> tuple[list[NDArray[np.generic]], list[tuple[int, EpisodeRecord]]]:
    """Observations, rewards and flags of every step, and the episodes with their step."""
    seen: list[NDArray[np.generic]] = []
    episodes = []
    for number, step in enumerate(actions):
        for index in range(envs.num_slices):
            envs.send(index, step[envs.slice_rows(index)])
        parts = [envs.receive(index) for index in range(envs.num_slices)]
        for name in ("observations", "rewards", "terminations", "truncations"):
            seen += [np.concatenate([getattr(part, name) for part in parts])]
        episodes += [(number, episode) for part in parts for episode in part.episodes]
    return seen, episodes


def assert_same(one: list[NDArray[np.generic]], other: list[NDArray[np.generic]]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("workers", "slices"), [(0, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_it_goes_on_to_the_bit_with_any_slices_and_workers(name: str, workers: int, slices: int, steps: int) -> None:
    config = CONFIGS[name]
    with vector_env(config) as original:
        actions = random_actions(steps + 15, original.num_rows, len(original.spec.actions))
        original.reset()
        play(original, actions[:steps])
        original.mark()
        at_mark = original.snapshot()
        if steps:
            assert at_mark.episodes.max() > 0 or name != "forage" or steps < 9  # endings lie behind
        expected, episodes = play(original, actions[steps:])
        # The mark is told as it was, whatever happened since.
        assert all(
            np.array_equal(getattr(at_mark, field), getattr(original.snapshot(), field))
            for field in ("episodes", "lengths", "actions", "digests")
        )
        snapshot = original.snapshot()
    with vector_env(config, workers=workers, slices=slices) as again:
        restored = again.restore(snapshot)
        assert restored.opened == restored.differing == ()
        assert restored.observations.shape[0] == again.num_rows
        got, got_episodes = play(again, actions[steps:])
    assert_same(expected, got)
    assert sorted(episodes, key=lambda e: (e[0], e[1].env)) == sorted(got_episodes, key=lambda e: (e[0], e[1].env))


def test_statistics_and_the_random_first_length_come_back() -> None:
    """An env in the middle of its shortened first episode still ends it at the same step, with the same record."""
    config = tiny_forage({"task.max_steps": 40})
    with vector_env(config) as original:
        actions = random_actions(60, original.num_rows, len(original.spec.actions))
        original.reset()
        _, before = play(original, actions[:10])
        original.mark()
        snapshot = original.snapshot()
        _, episodes = play(original, actions[10:])
    first = {episode.env for _, episode in before}
    shortened = [episode for _, episode in episodes if episode.shortened]
    assert shortened and not {episode.env for episode in shortened} & first
    with vector_env(config, workers=2) as again:
        again.restore(snapshot)
        _, got = play(again, actions[10:])
    assert got == episodes


def test_a_snapshot_of_a_restored_env_is_the_same() -> None:
    with vector_env(CONFIGS["forage"]) as original:
        original.reset()
        play(original, random_actions(5, original.num_rows, 3))
        original.mark()
        snapshot = original.snapshot()
    with vector_env(CONFIGS["forage"], workers=2) as again:
        again.restore(snapshot)
        other = again.snapshot()
    for field in ("episodes", "lengths", "actions", "digests"):
        np.testing.assert_array_equal(getattr(snapshot, field), getattr(other, field))


def snapshot_after(steps: int) -> VectorSnapshot:
    with vector_env(CONFIGS["forage"]) as original:
        original.reset()
        play(original, random_actions(steps, original.num_rows, 3))
        original.mark()
        return original.snapshot()


def test_an_episode_that_looks_different_is_given_up_and_told() -> None:
    snapshot = snapshot_after(3)
    digests = snapshot.digests.copy()
    digests[1, 0] ^= 1
    with vector_env(CONFIGS["forage"]) as again:
        restored = again.restore(replace(snapshot, digests=digests))
        assert restored.opened == restored.differing == (1,)
        after = again.snapshot()
    assert after.episodes.tolist() == [int(e) + (env == 1) for env, e in enumerate(snapshot.episodes)]
    assert after.lengths[1] == 0


def test_an_environment_that_does_not_replay_opens_the_next_episode() -> None:
    config = env_config("gymnasium", {"id": "tests.fakes.gymnasium_envs:FakeNondeterministic-v0"})
    with vector_env(config, envs=2) as original:
        original.reset()
        play(original, np.zeros((3, 2), np.int64))
        original.mark()
        snapshot = original.snapshot()
    for workers in (0, 2):
        with vector_env(config, envs=2, workers=workers) as again:
            restored = again.restore(snapshot)
            assert restored.opened == (0, 1) and restored.differing == ()
            assert again.snapshot().episodes.tolist() == [e + 1 for e in snapshot.episodes]


def test_another_number_of_envs_opens_new_episodes_with_seeds_of_their_own() -> None:
    snapshot = snapshot_after(3)
    with vector_env(CONFIGS["forage"], envs=6) as again:
        restored = again.restore(snapshot)
        assert restored.opened == tuple(range(6))
        assert again.snapshot().episodes.tolist() == [int(e) + 1 for e in snapshot.episodes] + [0, 0]


def faulty(fault: str, **changes: object) -> WorkerVectorEnv:
    config = env_config(
        "gymnasium", {"id": "tests.fakes.gymnasium_envs:Fake-v0", "kwargs": {"fault": fault}, **changes}
    )
    envs = make_vector_env(config, num_envs=2, num_workers=2, num_slices=1, seed=1)
    assert isinstance(envs, WorkerVectorEnv)
    return envs


def test_a_snapshot_can_be_taken_after_a_worker_died() -> None:
    with faulty("none") as envs:
        envs.reset()
        play(envs, np.zeros((2, 2), np.int64))
        envs.mark()
        os.kill(envs.worker_pids[0], signal.SIGKILL)
        with pytest.raises(WorkerError):
            play(envs, np.zeros((1, 2), np.int64))
        assert envs.snapshot().lengths.tolist() == [2, 2]


def test_a_killed_worker_is_replaced_and_its_rows_are_truncated() -> None:
    with faulty("none", restart_budget=1) as envs:
        envs.reset()
        play(envs, np.zeros((2, 2), np.int64))
        other = envs.worker_pids[0]
        os.kill(envs.worker_pids[1], signal.SIGKILL)
        envs.send(0, np.zeros(2, np.int64))
        step = envs.receive(0)
        assert step.truncations.tolist() == [False, True] and not step.terminations.any()
        assert step.rewards[1] == 0.0
        assert step.final_rows.tolist() == [1]
        (episode,) = step.episodes
        assert (episode.env, episode.truncated, episode.shortened, episode.length) == (1, True, True, 3)
        assert envs.restarts == 1 and envs.worker_pids[0] == other
        seen, _ = play(envs, np.zeros((1, 2), np.int64))
        assert not seen[-1].any()
        envs.mark()
        assert envs.snapshot().episodes.tolist() == [0, 1]
        os.kill(envs.worker_pids[1], signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"(?s)killed by SIGKILL.*env\.restart_budget=1 is spent"):
            play(envs, np.zeros((1, 2), np.int64))


@pytest.mark.parametrize("fault", ["raise", "hang", "die"])
def test_each_kind_of_failure_is_survived_within_the_budget(fault: str) -> None:
    """Both workers fail in the third step of every episode, so a budget of 4 lasts for two rounds."""
    with faulty(fault, restart_budget=4, step_timeout=1.0) as envs:
        envs.reset()
        with pytest.raises(WorkerError, match="budget=4 is spent"):
            play(envs, np.zeros((20, 2), np.int64))
        assert envs.restarts == 4


def test_a_worker_lost_while_another_slice_is_decided_cuts_its_envs_at_their_next_step() -> None:
    config = env_config("gymnasium", {"restart_budget": 1})
    envs = make_vector_env(config, num_envs=4, num_workers=2, num_slices=2, seed=1)
    with envs:
        assert isinstance(envs, WorkerVectorEnv)
        envs.reset()
        play(envs, np.zeros((2, 4), np.int64))
        envs.send(0, np.zeros(2, np.int64))
        envs.receive(0)
        os.kill(envs.worker_pids[0], signal.SIGKILL)
        envs.send(1, np.zeros(2, np.int64))
        in_flight = envs.receive(1)
        assert in_flight.truncations.tolist() == [True, False]
        envs.send(0, np.zeros(2, np.int64))
        assert envs.receive(0).truncations.tolist() == [True, False]
        envs.send(0, np.zeros(2, np.int64))
        assert not envs.receive(0).truncations.any()
