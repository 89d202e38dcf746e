"""Gymnasium environments behind the Environment contract."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from metta_train.envs.build import environment_spec, make_environment, make_vector_env
from metta_train.specs.environment_spec import BoxObservation
from metta_train.specs.random_streams import derived_seed
from tests.envs.env_configs import env_config
from tests.envs.trajectories import random_actions, trajectory

FAKES = "tests.fakes.gymnasium_envs:"


def test_the_spec_of_cartpole() -> None:
    spec = environment_spec(env_config("gymnasium"))
    assert spec.name == "CartPole-v1" and spec.num_agents == 1
    assert spec.observation == BoxObservation((4,), "float32")
    assert spec.actions.names == ("action_0", "action_1")


def test_cartpole_equals_a_plain_loop_on_gymnasium() -> None:
    steps = 200
    got = trajectory(env_config("gymnasium"), num_envs=1, num_workers=0, num_slices=1, steps=steps)
    actions = random_actions(steps, 1, 2)[:, 0]
    twin = gymnasium.make("CartPole-v1")
    episode, length = 0, 0

    def first() -> np.ndarray:
        seed = derived_seed(derived_seed(5, "rank", 0, "env", 0, "episode", episode), "gymnasium") % 2**31
        return twin.reset(seed=seed)[0]

    observation = first()
    for step in range(steps):
        np.testing.assert_array_equal(got.observations[step, 0], observation)
        observation, reward, terminated, truncated, _ = twin.step(actions[step])
        length += 1
        assert got.rewards[step, 0] == reward
        assert got.terminations[step, 0] == terminated and got.truncations[step, 0] == truncated
        if terminated or truncated:
            np.testing.assert_array_equal(got.finals[step, 0], observation)
            at, record = got.episodes[episode]
            assert (at, record.length, record.reward, record.truncated) == (step, length, length, False)
            episode, length = episode + 1, 0
            observation = first()
    assert episode >= 2


def test_a_time_limit_truncates() -> None:
    for config in (
        env_config("gymnasium", {"id": FAKES + "FakeLimited-v0"}),
        env_config("gymnasium", {"id": FAKES + "Fake-v0", "max_steps": 4}),
    ):
        assert make_environment(config).episode_limit == 4
        got = trajectory(config, num_envs=1, num_workers=0, num_slices=1, steps=8)
        assert got.truncations[:, 0].tolist() == [False] * 3 + [True] + [False] * 3 + [True]
        assert not got.terminations.any()
        assert got.finals[3, 0][0] == 4  # the step counter of the old episode


def test_actions_count_from_the_space_s_start() -> None:
    config = env_config("gymnasium", {"id": FAKES + "Fake-v0", "kwargs": {"start": 7}})
    with make_vector_env(config, num_envs=1, num_workers=0, num_slices=1, seed=1) as envs:
        envs.reset()
        envs.send(0, np.array([2]))
        assert envs.receive(0).rewards.tolist() == [9.0]


def test_float64_observations_become_float32_and_bytes_stay() -> None:
    for dtype, expected in (("float64", "float32"), ("uint8", "uint8"), ("float32", "float32")):
        config = env_config("gymnasium", {"id": FAKES + "Fake-v0", "kwargs": {"dtype": dtype}})
        assert environment_spec(config).observation == BoxObservation((2,), expected)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"id": "CartPol-v1"}, ["env.id", "'CartPol-v1'", "did you mean CartPole-v"]),
        ({"id": "no_such_package:Env-v0"}, ["env.id", "no_such_package"]),
        ({"id": FAKES + "FakeDict-v0"}, ["FakeDict-v0", "observation space must be a Box"]),
        ({"id": "Pendulum-v1"}, ["Pendulum-v1", "action space must be Discrete", "Box"]),
        ({"kwargs": {"no_such": 1}}, ["env.kwargs", "no_such"]),
    ],
)
def test_what_does_not_work_is_refused_in_words(changes: dict[str, object], texts: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        environment_spec(env_config("gymnasium", changes))
    for text in texts:
        assert text in str(error.value)
    assert "\n" not in str(error.value)
