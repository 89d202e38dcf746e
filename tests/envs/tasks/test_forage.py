"""The foraging task on a drawn map, and what its observations hold."""

from __future__ import annotations

import numpy as np
import pytest

from metta_train.envs.build import environment_spec
from metta_train.envs.config import ForageTask, MettaGridEnvConfig
from metta_train.envs.tasks.forage import forage_game
from metta_train.specs.environment_spec import TokenObservation
from tests.envs.env_configs import env_config
from tests.envs.mettagrid_play import Play, drawn_map
from tests.envs.trajectories import trajectory


def forage_play(rows: list[str], num_agents: int = 1, **changes: object) -> Play:
    config = env_config("forage", {f"task.{key}": value for key, value in changes.items()})
    assert isinstance(config, MettaGridEnvConfig) and isinstance(config.task, ForageTask)
    game = forage_game(config.task)
    game.game.num_agents = num_agents
    game.game.map_builder = drawn_map(rows)
    return Play(game)


def test_ore_becomes_a_heart_and_a_heart_is_the_reward() -> None:
    play = forage_play(["#####", "#m@a#", "#####"])
    assert play.step("move_east") == [0.0]  # nothing to offer
    assert play.step("move_west") == [0.0]
    assert play.inventory("agent") == {"ore": 1}
    assert play.step("move_west") == [0.0]
    assert play.inventory("agent") == {"ore": 1}  # carries no more
    assert play.step("move_east") == [1.0]
    assert play.inventory("agent") == {"heart": 1}
    assert play.step("move_east") == [0.0]
    assert play.step("noop") == [0.0]
    play.step("move_west")
    assert play.step("move_east") == [1.0]
    assert play.inventory("agent") == {"heart": 2}


def test_rewards_of_the_config_count() -> None:
    play = forage_play(["#####", "#m@a#", "#####"], heart_reward=2.0, ore_reward=0.25, ore_limit=2)
    assert play.step("move_west") == [0.25]
    assert play.step("move_west") == [0.0]  # only the first unit
    assert play.step("move_east") == [2.0]
    assert play.step("move_east") == [1.75]  # the last ore is spent: 2 - 0.25


def test_agents_do_not_walk_through_things() -> None:
    play = forage_play(["####", "#@@#", "####"], num_agents=2)
    play.step("move_east", "move_west")
    play.step("move_north", "move_south")
    assert [(thing.row, thing.column) for thing in play.things("agent")] == [(1, 1), (1, 2)]


def test_the_spec() -> None:
    spec = environment_spec(env_config("forage"))
    observation = spec.observation
    assert isinstance(observation, TokenObservation)
    assert spec.num_agents == 24
    assert spec.actions.names == ("noop", "move_north", "move_south", "move_west", "move_east")
    features = {feature.name: feature for feature in observation.features}
    assert features["tag"].categories == 4
    assert features["last_action"].categories == 5
    assert features["inv:ore"].normalization == 1.0
    assert sorted(features) == [
        "agent_id", "episode_completion_pct", "inv:heart", "inv:ore", "last_action", "last_reward", "tag",
    ]  # fmt: skip


def test_no_token_is_dropped_repeated_or_of_an_unexpected_feature() -> None:
    """DESIGN 3 keeps the last of two tokens with the same cell and feature; here there never are two."""
    config = env_config("forage", {"task.max_steps": 60})
    spec = environment_spec(config)
    observation = spec.observation
    assert isinstance(observation, TokenObservation)
    got = trajectory(config, num_envs=2, num_workers=0, num_slices=1, steps=130)
    tokens = got.observations[::5].reshape(-1, observation.num_tokens, 3).astype(np.int64)
    real = tokens[:, :, 0] != 255
    assert real.any(1).all() and real.sum(1).max() <= 46 < observation.num_tokens
    keys = np.where(real, tokens[:, :, 0] * 256 + tokens[:, :, 1], -1 - np.arange(observation.num_tokens))
    assert all(len(np.unique(row)) == len(row) for row in keys)
    always_zero = 0  # agent:group, omitted
    known = {feature.id for feature in observation.features} | {always_zero}
    assert set(np.unique(tokens[:, :, 1][real])) <= known
    assert not tokens[:, :, 2][real & (tokens[:, :, 1] == always_zero)].any()
    assert all(episode.stats["game/tokens_dropped"] == 0 for _, episode in got.episodes)


def test_no_agent_can_see_more_than_15_walls() -> None:
    """The bound behind num_tokens, since MettaGrid stops a game that writes more. Its 11x11 window is a disk."""
    config = env_config("forage")
    assert isinstance(config, MettaGridEnvConfig) and isinstance(config.task, ForageTask)
    size = config.task.room_size
    half_widths = (5, 5, 4, 4, 3, 1)  # columns seen either side, by rows away
    ring = {(r, c) for r in range(-1, size + 1) for c in range(-1, size + 1)} - {
        (r, c) for r in range(size) for c in range(size)
    }
    seen = [
        sum(abs(r - row) <= 5 and abs(c - column) <= half_widths[abs(r - row)] for r, c in ring)
        for row in range(size)
        for column in range(size)
    ]
    assert max(seen) == 15
    tokens = 3 + max(seen) + config.task.mines + config.task.altars + 5 * config.task.agents_per_room
    assert tokens <= config.task.num_tokens


def test_the_window_is_a_disk() -> None:
    rows = ["m" * 11] * 11
    rows[5] = "m" * 5 + "@" + "m" * 5
    play = forage_play(rows, num_tokens=150)
    mine = play.tags.index("type:mine")
    seen = [place for place, name, value in play.tokens(0) if name == "tag" and value == mine]
    by_row = [sum(place >> 4 == row for place in seen) for row in range(11)]
    assert by_row == [3, 7, 9, 9, 11, 10, 11, 9, 9, 7, 3]


def test_a_random_policy_earns_what_the_learning_goal_assumes() -> None:
    got = trajectory(env_config("forage"), num_envs=8, num_workers=0, num_slices=1, steps=600)
    assert got.rewards.mean() == pytest.approx(0.0069, rel=0.2)
