"""PettingZoo parallel environments behind the Environment contract, per-agent endings included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metta_train.envs.build import environment_spec, make_environment, make_vector_env
from metta_train.envs.config import EnvConfig
from metta_train.specs.environment_spec import BoxObservation
from metta_train.specs.random_streams import derived_seed
from tests.cli.command import metta_train
from tests.envs.env_configs import env_config
from tests.envs.trajectories import trajectory

FAKE = "tests.fakes.pettingzoo_envs"


def leaving(max_steps: int | None = None, id: str = FAKE, **kwargs: object) -> EnvConfig:
    changes: dict[str, object] = {"id": id, "kwargs": kwargs, "max_steps": max_steps, "desync_episodes": False}
    return env_config("pettingzoo", changes)


def test_the_agents_are_the_possible_ones() -> None:
    spec = environment_spec(leaving())
    assert (spec.name, spec.num_agents) == (FAKE, 3)
    assert spec.observation == BoxObservation((2,), "float32")
    assert spec.actions.names == ("action_0", "action_1", "action_2", "action_3")


def test_an_agent_that_terminates_early_watches_until_all_have_ended() -> None:
    got = trajectory(
        leaving(terminations={"agent_0": 2, "agent_1": 4}, truncations={"agent_2": 5}),
        num_envs=1,
        num_workers=0,
        num_slices=1,
        steps=10,
    )
    offset = derived_seed(derived_seed(5, "rank", 0, "env", 0, "episode", 0), "pettingzoo") % 2**31 % 1000
    # What is seen before step t, by agent: its own step counter until it ends, and zeros from the next step on.
    seen = got.observations[:5, :, 0].astype(np.float64) - offset
    np.testing.assert_array_equal(seen[:, 2], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(seen[:3, 0], [0, 1, 2])
    assert not got.observations[3:5, 0].any() and got.observations[5, 0, 1] != 0
    assert not got.rewards[2:5, 0].any() and not got.rewards[4:5, 1].any()
    # One ending for all, at step 5: a termination for those who had terminated, a truncation for the one cut off.
    assert got.terminations[4].tolist() == [True, True, False]
    assert got.truncations[4].tolist() == [False, False, True]
    assert not got.terminations[:4].any() and not got.truncations[:4].any()
    np.testing.assert_array_equal(got.finals[4, 2], [5 + offset, 3])
    ((at, first), (_, _)) = got.episodes
    assert (at, first.length, first.truncated) == (4, 5, False)
    assert first.stats == {"terminated_agents": 2.0}


def test_rewards_are_those_of_the_agents_that_acted() -> None:
    environment = make_environment(leaving(terminations={"agent_0": 1}, start=3, absent=["agent_1"]))
    from metta_train.envs.stage import buffers_for

    buffers = buffers_for(environment.spec)
    environment.bind(buffers)
    environment.reset(seed=1)
    assert not buffers.observations[1].any() and buffers.observations[[0, 2], 1].tolist() == [1, 3]
    environment.step(np.array([2, 3, 1], np.int32))
    assert buffers.rewards.tolist() == [5.0, 0.0, 4.0]
    environment.step(np.array([2, 3, 1], np.int32))
    assert buffers.rewards.tolist() == [0.0, 0.0, 4.0]
    assert not buffers.terminations.any()


def test_an_agent_that_is_truncated_ends_the_episode_of_all() -> None:
    environment = make_environment(
        leaving(terminations={"agent_0": 1}, truncations={"agent_2": 2}, num=4, absent=["agent_3"])
    )
    from metta_train.envs.stage import buffers_for

    buffers = buffers_for(environment.spec)
    environment.bind(buffers)
    environment.reset(seed=1)
    for _ in range(2):
        environment.step(np.zeros(4, np.int32))
    assert buffers.terminations.tolist() == [True, False, False, True]  # the absent one has no future, either
    assert buffers.truncations.tolist() == [False, True, True, False]


def test_when_all_terminate_it_is_a_termination_and_a_time_limit_truncates() -> None:
    ends = {f"agent_{index}": 3 for index in range(3)}
    got = trajectory(leaving(terminations=ends), num_envs=1, num_workers=0, num_slices=1, steps=3)
    assert got.terminations[2].all() and not got.truncations.any()
    limited = leaving(max_steps=2)
    assert make_environment(limited).episode_limit == 2
    got = trajectory(limited, num_envs=2, num_workers=0, num_slices=1, steps=4)
    assert got.truncations.all(axis=1).tolist() == [False, True, False, True] and not got.terminations.any()


def test_workers_and_replay() -> None:
    """The same experience in worker processes, and a snapshot that is played again to the bit."""
    config = leaving(terminations={"agent_0": 2}, truncations={"agent_2": 5})
    here = trajectory(config, num_envs=2, num_workers=0, num_slices=1, steps=7)
    there = trajectory(config, num_envs=2, num_workers=2, num_slices=1, steps=7)
    np.testing.assert_array_equal(here.observations, there.observations)
    np.testing.assert_array_equal(here.terminations, there.terminations)
    with make_vector_env(config, num_envs=1, num_workers=0, num_slices=1, seed=1) as envs:
        envs.reset()
        for _ in range(3):
            envs.send(0, np.zeros(3, np.int64))
            shown = envs.receive(0).observations.copy()
        envs.mark()
        snapshot = envs.snapshot()
        for _ in range(3):
            envs.send(0, np.ones(3, np.int64))
            envs.receive(0)
        restored = envs.restore(snapshot)
        assert restored.opened == ()
        np.testing.assert_array_equal(restored.observations, shown)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (leaving(id="sisl/pursuit_v4"), r"env.id: got 'sisl/pursuit_v4', .*did you mean sisl/pursuit_v5\?"),
        (leaving(id="nowhere.at_all_v0"), r"env.id: got 'nowhere.at_all_v0', and there is no module nowhere.at_all_v0"),
        (leaving(id="json"), r"env.id=json: json has no parallel_env; it is no parallel environment"),
        (leaving(id=f"{FAKE}:Pixels"), r"observation spaces must be Boxes, got Discrete\(3\)"),
        (leaving(id=f"{FAKE}:WithoutAgents"), r"has no possible_agents"),
        (leaving(wide=["agent_1"]), r"one policy plays all agents, so their observations must be alike: agent_0 has"),
        (leaving(speed=3), r"env.kwargs: .* does not take {'speed': 3}"),
    ],
)
def test_mistakes(config: EnvConfig, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        environment_spec(config)


def test_a_package_that_an_environment_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hungry_v0.py").write_text("import packing.sub\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^env.id=hungry_v0: .* not installed: .*; try pip install packing$"):
        environment_spec(leaving(id="hungry_v0"))


def test_a_training_on_the_command_line(tmp_path) -> None:
    done = metta_train(
        *("env=pettingzoo", f"env.id={FAKE}", "+env.kwargs.terminations={agent_0: 3}", "env.max_steps=8", "agent=mlp"),
        *(
            "trainer=smoke",
            "trainer.total_timesteps=96",
            "trainer.num_envs=2",
            "trainer.batch_size=96",
            "wandb=off",
            "run=p",
        ),
        folder=tmp_path,
        PYTHONPATH=f"{tmp_path}:{__file__.rpartition('/tests/')[0]}/src:{__file__.rpartition('/tests/')[0]}",
    )
    assert done.code == 0, done.err
    assert '"metric/agent_step": 96' in (tmp_path / "train_dir" / "p" / "metrics.jsonl").read_text()
    refused = metta_train("env=pettingzoo", "agent=mlp", folder=tmp_path)
    assert refused.code == 2
    assert refused.err == "env.id: needs a PettingZoo environment, e.g. env.id=sisl/pursuit_v5\n"
