"""A row's experience depends on (seed, rank, env) and its actions alone: not on backend, workers or slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metta_train.envs.build import make_environment, make_vector_env
from metta_train.envs.config import EnvConfig
from metta_train.envs.row_buffers import RowBuffers
from metta_train.specs.random_streams import derived_seed
from tests.envs.env_configs import env_config, tiny_forage
from tests.envs.trajectories import Trajectory, random_actions, trajectory

CONFIGS = {"forage": tiny_forage(), "gymnasium": env_config("gymnasium")}


def assert_same(one: Trajectory, other: Trajectory) -> None:
    np.testing.assert_array_equal(one.observations, other.observations)
    np.testing.assert_array_equal(one.rewards, other.rewards)
    np.testing.assert_array_equal(one.terminations, other.terminations)
    np.testing.assert_array_equal(one.truncations, other.truncations)
    assert one.episodes == other.episodes
    assert one.finals.keys() == other.finals.keys()
    for key, final in one.finals.items():
        np.testing.assert_array_equal(final, other.finals[key])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("num_workers", "num_slices"), [(0, 2), (1, 1), (2, 2), (3, 2), (4, 4)])
def test_all_backends_show_the_same(name: str, num_workers: int, num_slices: int) -> None:
    config = CONFIGS[name]
    expected = trajectory(config, num_envs=4, num_workers=0, num_slices=1, steps=40)
    assert len(expected.episodes) >= 4
    got = trajectory(config, num_envs=4, num_workers=num_workers, num_slices=num_slices, steps=40)
    assert_same(expected, got)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_seed_is_a_stream_and_another_seed_or_rank_another(name: str) -> None:
    config = CONFIGS[name]
    one = trajectory(config, num_envs=2, num_workers=0, num_slices=1, steps=10)
    assert_same(one, trajectory(config, num_envs=2, num_workers=0, num_slices=1, steps=10))
    for changed in ({"seed": 6}, {"rank": 1}):
        other = trajectory(config, num_envs=2, num_workers=0, num_slices=1, steps=10, **changed)
        assert not np.array_equal(one.observations, other.observations)


def test_envs_do_not_depend_on_how_many_there_are() -> None:
    config = tiny_forage()
    many = trajectory(config, num_envs=4, num_workers=0, num_slices=1, steps=1)
    few = trajectory(config, num_envs=2, num_workers=0, num_slices=1, steps=1)
    np.testing.assert_array_equal(many.observations[0, :8], few.observations[0])
    assert not np.array_equal(many.observations[0, :4], many.observations[0, 4:8])  # other maps


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_equal_the_same_env_stepped_alone(name: str) -> None:
    """The slow twin: one plain environment, reset by hand."""
    config = CONFIGS[name]
    steps, env = 40, 1
    got = trajectory(config, num_envs=3, num_workers=0, num_slices=3, steps=steps)
    environment = make_environment(config)
    spec = environment.spec
    buffers = RowBuffers.over(bytearray(RowBuffers.num_bytes(spec, 1)), spec, 1).of_env(0)
    environment.bind(buffers)
    limit = environment.episode_limit
    first_length = 1 + derived_seed(5, "rank", 0, "env", env, "first_length") % limit if limit else 0
    rows = slice(env * spec.num_agents, (env + 1) * spec.num_agents)
    actions = random_actions(steps, 3 * spec.num_agents, len(spec.actions))[:, rows].astype(np.int32)
    episode = length = 0
    environment.reset(derived_seed(5, "rank", 0, "env", env, "episode", 0))
    for step in range(steps):
        np.testing.assert_array_equal(got.observations[step, rows], buffers.observations)
        environment.step(actions[step])
        length += 1
        cut = config.desync_episodes and episode == 0 and length == first_length
        np.testing.assert_array_equal(got.rewards[step, rows], buffers.rewards)
        np.testing.assert_array_equal(got.terminations[step, rows], buffers.terminations)
        np.testing.assert_array_equal(got.truncations[step, rows], buffers.truncations | cut)
        if cut or buffers.terminations[0] or buffers.truncations[0]:
            for agent in range(spec.num_agents):
                np.testing.assert_array_equal(got.finals[step, rows.start + agent], buffers.observations[agent])
            episode, length = episode + 1, 0
            environment.reset(derived_seed(5, "rank", 0, "env", env, "episode", episode))
    assert episode >= 1
    environment.close()


def test_first_lengths_differ_between_envs_and_the_rest_is_full_length() -> None:
    config = tiny_forage({"task.max_steps": 30})
    got = trajectory(config, num_envs=6, num_workers=0, num_slices=1, steps=60)
    firsts: dict[int, int] = {}
    for _, episode in got.episodes:
        if episode.env in firsts:
            assert episode.length == 30 and not episode.shortened
        firsts.setdefault(episode.env, episode.length)
    assert len(firsts) == 6 and len(set(firsts.values())) >= 4
    together = trajectory(tiny_forage({"desync_episodes": False}), num_envs=2, num_workers=0, num_slices=1, steps=7)
    assert [(step, episode.length, episode.shortened) for step, episode in together.episodes] == [(6, 7, False)] * 2


@pytest.mark.parametrize(("time_limit", "truncated"), [("truncation", True), ("termination", False)])
def test_a_time_limit_is_what_the_config_says(time_limit: str, truncated: bool) -> None:
    config = tiny_forage({"time_limit": time_limit, "desync_episodes": False})
    got = trajectory(config, num_envs=1, num_workers=0, num_slices=1, steps=8)
    assert got.truncations[6].all() == truncated and got.terminations[6].all() != truncated
    assert not got.truncations[[0, 1, 2, 3, 4, 5, 7]].any() and not got.terminations[[0, 1, 2, 3, 4, 5, 7]].any()
    assert [episode.truncated for _, episode in got.episodes] == [truncated]


def test_reset_starts_all_streams_again() -> None:
    with make_vector_env(tiny_forage(), num_envs=2, num_workers=0, num_slices=1, seed=1) as envs:
        first = envs.reset().copy()
        for _ in range(9):
            envs.send(0, np.zeros(envs.num_rows, np.int64))
            envs.receive(0)
        np.testing.assert_array_equal(envs.reset(), first)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"num_envs": 3, "num_slices": 2, "num_workers": 0}, "multiple of 2"),
        ({"num_envs": 0, "num_slices": 1, "num_workers": 0}, "num_envs=0"),
        ({"num_envs": 2, "num_slices": 1, "num_workers": 3}, "num_workers=3"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(numbers: dict[str, Any], text: str) -> None:
    config: EnvConfig = tiny_forage()
    with pytest.raises(ValueError, match=text):
        make_vector_env(config, seed=1, **numbers)
