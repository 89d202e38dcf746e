"""MettaGrid on its C++ simulator: tokens, buffers, seeds, statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from mettagrid.config.mettagrid_config import MettaGridConfig
from mettagrid.config.obs_config import ObsConfig

from metta_train.envs.build import environment_spec, make_environment
from metta_train.envs.config import ForageTask, MettaGridEnvConfig
from metta_train.envs.mettagrid import MettaGridEnvironment, load_game
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.tasks.forage import forage_game
from metta_train.specs.environment_spec import GLOBAL_LOCATION, PADDING_LOCATION, TokenObservation
from tests.envs.env_configs import env_config, tiny_forage
from tests.envs.mettagrid_play import Play, drawn_map

NOOP, NORTH, SOUTH, WEST, EAST = range(5)


def play_on(rows: list[str], num_agents: int = 1, height: int = 11, width: int = 11) -> Play:
    config = env_config("forage")
    assert isinstance(config, MettaGridEnvConfig) and isinstance(config.task, ForageTask)
    game = forage_game(config.task)
    game.game.num_agents = num_agents
    game.game.obs = ObsConfig(height=height, width=width, num_tokens=60)
    game.game.map_builder = drawn_map(rows)
    return Play(game)


def alone(environment: MettaGridEnvironment) -> RowBuffers:
    rows = RowBuffers.over(bytearray(RowBuffers.num_bytes(environment.spec, 1)), environment.spec, 1)
    environment.bind(rows.of_env(0))
    return rows


def test_the_upper_nibble_of_a_location_is_the_row() -> None:
    play = play_on(["....m", ".....", "..@..", ".....", ".a..."], height=11, width=7)
    mine, altar = play.tags.index("type:mine"), play.tags.index("type:altar")
    places = {value: place for place, name, value in play.tokens(0) if name == "tag"}
    # The agent at (2, 2) is in the middle of its window, at (5, 3). The mine at (0, 4) is 2 up and 2 right of it,
    # the altar at (4, 1) 2 down and 1 left.
    assert places[play.tags.index("type:agent")] == 5 << 4 | 3
    assert places[mine] == 3 << 4 | 5
    assert places[altar] == 7 << 4 | 2


def test_global_tokens_lie_at_254_and_padding_is_255() -> None:
    play = play_on(["@.."])
    play.step("move_east")
    tokens = np.asarray(play.buffers.observations[0])
    names = {name: value for place, name, value in play.tokens(0) if place == GLOBAL_LOCATION}
    assert names == {"episode_completion_pct": 0, "last_action": EAST, "last_reward": 0}
    written = len(play.tokens(0))
    assert (tokens[written:] == PADDING_LOCATION).all()  # all three bytes
    assert not (tokens[:written, 0] == PADDING_LOCATION).any()


def test_every_agent_and_object_has_one_tag() -> None:
    play = play_on(["#@@a", "m..#"], num_agents=2)
    for agent in range(2):
        places = [place for place, name, _ in play.tokens(agent) if name == "tag"]
        assert len(places) == len(set(places)) == 6


def test_a_reset_writes_all_buffers_and_a_step_lowers_the_flags() -> None:
    environment = make_environment(tiny_forage())
    assert isinstance(environment, MettaGridEnvironment)
    rows = alone(environment)
    rows.observations.fill(7)
    rows.rewards.fill(7.0)
    rows.terminations.fill(True)
    rows.truncations.fill(True)
    environment.reset(1)
    assert not rows.rewards.any() and not rows.terminations.any() and not rows.truncations.any()
    assert not (np.asarray(rows.observations) == 7).all(axis=(1, 2)).any()
    for _ in range(7):
        environment.step(np.zeros(4, np.int32))
    assert rows.truncations.all()
    environment.reset(2)
    environment.step(np.zeros(4, np.int32))
    assert not rows.truncations.any()


def test_the_seed_of_an_episode_makes_its_map_and_other_seeds_other_maps() -> None:
    environment = make_environment(tiny_forage())
    assert isinstance(environment, MettaGridEnvironment)
    rows = alone(environment)
    seen = []
    for seed in (1, 2, 1, 2**62):
        environment.reset(seed)
        seen.append(np.asarray(rows.observations).tobytes())
    assert seen[0] == seen[2] and len(set(seen)) == 3


@pytest.mark.parametrize("task", ["forage", "arena"])
def test_one_conversion_serves_all_episodes(task: str) -> None:
    """One that has played before equals a fresh one; two that live side by side do not disturb each other."""
    config = env_config(task, {"task.max_steps": 80})
    used, neighbour, fresh = (make_environment(config) for _ in range(3))
    actions = np.random.default_rng(0).integers(0, 5, (80, 24)).astype(np.int32)
    used_rows, neighbour_rows = (alone(env) for env in (used, neighbour) if isinstance(env, MettaGridEnvironment))
    used.reset(11)
    for step in range(80):
        used.step(actions[step])
    used.reset(12)
    neighbour.reset(13)
    recorded = []
    for step in range(80):
        used.step(actions[step])
        neighbour.step(actions[79 - step])
        recorded.append((np.asarray(used_rows.observations).copy(), used_rows.rewards.copy()))
    assert not np.array_equal(np.asarray(used_rows.observations), np.asarray(neighbour_rows.observations))
    stats = used.episode_stats()
    assert isinstance(fresh, MettaGridEnvironment)
    fresh_rows = alone(fresh)
    fresh.reset(12)
    for step in range(80):
        fresh.step(actions[step])
        np.testing.assert_array_equal(np.asarray(fresh_rows.observations), recorded[step][0])
        np.testing.assert_array_equal(fresh_rows.rewards, recorded[step][1])
    assert fresh.episode_stats() == stats


def test_statistics_are_game_values_and_means_over_agents() -> None:
    play = play_on(["#####", "#m@a#", "#.@.#", "#####"], num_agents=2)
    play.step("move_west", "noop")
    play.step("move_east", "noop")
    stats = play.environment.episode_stats()
    assert stats["game/objects.mine"] == 1.0
    assert stats["agent/heart.gained"] == 0.5  # one of two agents has one
    assert stats["agent/ore.gained"] == 0.5
    assert stats["agent/action.noop.success"] == 1.0  # (0 + 2) / 2
    assert not [name for name in stats if "objects.agent" in name]
    assert all(name.startswith(("game/", "agent/")) for name in stats)


def test_statistics_may_end_a_game() -> None:
    config = env_config("forage")
    assert isinstance(config, MettaGridEnvConfig) and isinstance(config.task, ForageTask)
    game = forage_game(config.task)
    game.game.num_agents = 1
    game.game.map_builder = drawn_map(["@.."])
    game.game.end_episode_on_game_stats = {"tokens_written": 40.0}
    play = Play(game)
    steps = 0
    while not play.buffers.truncations.any():
        play.step("noop")
        steps += 1
    assert 1 < steps < 10
    assert not play.buffers.terminations.any()


def game_file(tmp_path: Path, changes: dict[str, object] | None = None) -> MettaGridEnvConfig:
    path = tmp_path / "game.yaml"
    game = MettaGridConfig.EmptyRoom(num_agents=2, width=6, height=6, border_width=1)
    game.game.max_steps = 9
    path.write_text(yaml.safe_dump(game.model_dump(mode="json")))
    config = env_config("mettagrid", {"config": str(path), **(changes or {})})
    assert isinstance(config, MettaGridEnvConfig)
    return config


def test_a_file_keeps_its_own_limit_and_scales(tmp_path: Path) -> None:
    game = load_game(game_file(tmp_path))
    assert game.config.game.max_steps == 9
    assert game.config.game.episode_truncates
    observation = game.spec.observation
    assert isinstance(observation, TokenObservation)
    scales = {feature.name: feature.normalization for feature in observation.features}
    assert scales["inv:heart"] == 256.0 and scales["last_action"] == 10.0
    assert load_game(game_file(tmp_path, {"max_steps": 30})).config.game.max_steps == 30


def test_a_file_takes_the_place_of_the_task(tmp_path: Path) -> None:
    path = game_file(tmp_path).config
    for name in ("forage", "arena"):
        spec = environment_spec(env_config(name, {"config": path}))
        assert spec.num_agents == 2
        assert make_environment(env_config(name, {"config": path})).episode_limit == 9


def test_vibe_actions_of_a_file_are_plain_actions(tmp_path: Path) -> None:
    environment = make_environment(game_file(tmp_path, {"features": {"agent:group": {"omit": True}}}))
    assert isinstance(environment, MettaGridEnvironment)
    names = environment.spec.actions.names
    assert names[:5] == ("noop", "move_north", "move_south", "move_west", "move_east")
    vibes = [index for index, name in enumerate(names) if name.startswith("change_vibe_")]
    assert vibes == list(range(5, len(names)))
    rows = alone(environment)
    environment.reset(1)
    environment.step(np.array([vibes[3], NOOP], np.int32))
    vibe = 5  # the feature id
    own = [
        int(value)
        for place, feature, value in np.asarray(rows.observations[0])
        if feature == vibe and place == 6 << 4 | 6
    ]
    assert own == [3]
    environment.step(np.array([EAST, NOOP], np.int32))  # moving leaves the vibe as it is
    assert [found["vibe"] for found in environment.simulator.grid_objects().values() if found.get("agent_id") == 0] == [
        3
    ]


def test_a_game_without_a_time_limit_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "game.json"
    game = MettaGridConfig.EmptyRoom(num_agents=1)
    game.game.max_steps = 0
    path.write_text(game.model_dump_json())
    with pytest.raises(ValueError, match=r"env\.max_steps: the game has no time limit"):
        environment_spec(env_config("mettagrid", {"config": str(path)}))
    assert make_environment(env_config("mettagrid", {"config": str(path), "max_steps": 5})).episode_limit == 5


def test_maps_of_builders_without_a_seed_are_reproducible(tmp_path: Path) -> None:
    """A drawn map with more spawn points than agents chooses among them."""
    path = tmp_path / "game.yaml"
    path.write_text(
        "game:\n  num_agents: 1\n  max_steps: 5\n  objects: {wall: {pydantic_type: wall}}\n"
        "  map_builder:\n    type: mettagrid.map_builder.ascii.AsciiMapBuilder.Config\n"
        "    map_data: ['#@@@@@@@@#']\n    char_to_map_name: {}\n"
    )
    environment = make_environment(env_config("mettagrid", {"config": str(path)}))
    assert isinstance(environment, MettaGridEnvironment)
    rows = alone(environment)

    def observe(seed: int) -> bytes:
        environment.reset(seed)
        return np.asarray(rows.observations).tobytes()

    first = [observe(seed) for seed in range(12)]
    assert first == [observe(seed) for seed in range(12)]
    assert len(set(first)) > 2
