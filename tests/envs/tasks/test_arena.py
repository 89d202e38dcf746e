"""The rules of arena/basic_easy_shaped, played step by step on small maps (numbers of reference 16)."""

from __future__ import annotations

import numpy as np
import pytest

from metta_train.envs.build import environment_spec, make_environment
from metta_train.envs.config import ArenaTask, MettaGridEnvConfig
from metta_train.envs.mettagrid import MettaGridEnvironment
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.tasks.arena import arena_game_on
from metta_train.specs.environment_spec import TokenObservation
from tests.envs.env_configs import env_config
from tests.envs.mettagrid_play import Play, drawn_map
from tests.envs.trajectories import trajectory


def arena_play(rows: list[str], num_agents: int = 1, **changes: object) -> Play:
    config = env_config("arena", {f"task.{key}": value for key, value in changes.items()})
    assert isinstance(config, MettaGridEnvConfig) and isinstance(config.task, ArenaTask)
    return Play(arena_game_on(config.task, num_agents=num_agents, map_builder=drawn_map(rows)))


def ticks_of_gain(play: Play, name: str, product: str, ticks: int) -> list[int]:
    """At which ticks the object gains a product while the agent waits."""
    gains, before = [], 0
    for tick in range(1, ticks + 1):
        play.step("noop")
        held = play.inventory(name).get(product, 0)
        if held > before:
            gains.append(tick)
        before = held
    return gains


def test_a_mine_makes_an_ore_every_51_ticks_until_it_holds_5() -> None:
    play = arena_play(["####", "#M@#", "####"])
    assert ticks_of_gain(play, "mine_red", "ore_red", 300) == [1, 52, 103, 154, 205]
    # All come at once, and a full mine starts again at once.
    assert play.step("move_west") == [0.1]
    assert play.inventory("agent") == {"ore_red": 5}
    assert play.inventory("mine_red")["ore_red"] == 1


def test_a_mine_keeps_what_the_agent_cannot_carry() -> None:
    play = arena_play(["####", "#M@#", "####"], default_limit=3)
    ticks_of_gain(play, "mine_red", "ore_red", 300)
    play.step("move_west")
    assert play.inventory("agent") == {"ore_red": 3}
    assert play.inventory("mine_red")["ore_red"] == 3  # 2 were left, and with room again it made one at once


def test_a_generator_needs_ore_and_rests_25_ticks() -> None:
    play = arena_play(["####", "#@G#", "####"])
    assert ticks_of_gain(play, "generator_red", "battery_red", 30) == []
    play.give(0, ore_red=3)
    for _ in range(3):  # one ore per use; the second use also takes the first battery
        play.step("move_east")
    assert play.inventory("agent") == {"battery_red": 1}
    # The first battery is made at once, the next one 26 ticks later; 2 ticks of those have passed.
    assert ticks_of_gain(play, "generator_red", "battery_red", 60) == [24, 50]


def test_an_altar_rests_10_ticks_and_holds_5_hearts() -> None:
    play = arena_play(["####", "#@A#", "####"], altar={"count": 5, "cooldown": 10, "max_output": 5, "input_amount": 1})
    play.give(0, battery_red=8)
    play.step("move_east")
    assert play.inventory("altar")["heart"] == 1
    for _ in range(7):
        play.step("move_east")
    assert play.inventory("agent") == {"heart": 1}
    assert ticks_of_gain(play, "altar", "heart", 100) == [4, 15, 26, 37, 48]  # every 11 ticks, then it is full
    assert play.inventory("altar")["battery_red"] == 2
    assert play.step("move_east") == [5.0]  # hearts have no limit on their reward


def test_an_altar_may_ask_for_three_batteries() -> None:
    play = arena_play(["####", "#@A#", "####"], altar={"count": 5, "cooldown": 10, "max_output": 5, "input_amount": 3})
    play.give(0, battery_red=2)
    play.step("move_east")  # puts what it has
    assert play.inventory("altar") == {"battery_red": 2}
    play.give(0, battery_red=4)
    play.step("move_east")
    assert play.inventory("agent") == {"battery_red": 1}
    assert play.inventory("altar")["heart"] == 1 and play.inventory("altar")["battery_red"] == 2


def test_the_whole_chain_and_its_shaped_rewards() -> None:
    play = arena_play(["#####", "#M@G#", "#.A.#", "#####"])
    assert play.step("noop") == [0.0]
    assert play.step("move_west") == [0.1]  # the first ore
    assert play.step("move_east") == [-0.1]  # it goes into the generator
    assert play.step("move_east") == [0.8]  # the battery
    assert play.step("move_south") == [-0.8]  # it goes into the altar
    assert play.step("move_south") == [1.0]  # the heart
    assert play.inventory("agent") == {"heart": 1}


def test_only_the_first_unit_of_an_intermediate_product_is_rewarded() -> None:
    play = arena_play(["####", "#M@#", "####"])
    ticks_of_gain(play, "mine_red", "ore_red", 60)
    assert play.step("move_west") == [0.1]
    ticks_of_gain(play, "mine_red", "ore_red", 60)
    assert play.step("move_west") == [0.0]
    assert play.inventory("agent")["ore_red"] == 3


def test_an_attack_costs_a_laser_and_takes_everything() -> None:
    play = arena_play(["####", "#@@#", "####"], num_agents=2)
    play.give(0, ore_red=2, heart=1)
    play.give(1, laser=2)
    play.step("noop", "move_west")
    assert play.inventory("agent", 0) == {}
    assert play.inventory("agent", 1) == {"ore_red": 2, "heart": 1, "laser": 1}
    play.give(0, armor=1, ore_red=1)
    play.step("noop", "move_west")
    assert play.inventory("agent", 0) == {"ore_red": 1}  # the armor is gone, the rest is safe
    assert play.inventory("agent", 1) == {"ore_red": 2, "heart": 1}
    play.step("noop", "move_west")  # no laser, no attack
    assert play.inventory("agent", 0) == {"ore_red": 1}


def test_the_map_and_the_spec() -> None:
    config = env_config("arena")
    spec = environment_spec(config)
    observation = spec.observation
    assert isinstance(observation, TokenObservation)
    assert (spec.num_agents, observation.num_tokens, observation.window_height) == (24, 200, 11)
    assert spec.actions.names == ("noop", "move_north", "move_south", "move_west", "move_east")
    assert {feature.name: feature.categories for feature in observation.features}["tag"] == 5
    environment = make_environment(config)
    assert isinstance(environment, MettaGridEnvironment) and environment.episode_limit == 1000
    environment.bind(RowBuffers.over(bytearray(RowBuffers.num_bytes(spec, 1)), spec, 1).of_env(0))
    environment.reset(1)
    simulator = environment.simulator
    assert (simulator.map_height, simulator.map_width) == (2 * 25 + 2 * 6, 2 * 25 + 2 * 6)
    names, counts = np.unique([found["type_name"] for found in simulator.grid_objects().values()], return_counts=True)
    border = 62 * 62 - 50 * 50
    assert dict(zip(names, counts, strict=True)) == {
        "agent": 24, "altar": 20, "generator_red": 20, "mine_red": 40, "wall": border + 4 * (20 + 20),
    }  # fmt: skip


def test_no_token_is_dropped_or_repeated() -> None:
    got = trajectory(env_config("arena", {"task.max_steps": 100}), num_envs=1, num_workers=0, num_slices=1, steps=150)
    tokens = got.observations[::5].reshape(-1, 200, 3).astype(np.int64)
    real = tokens[:, :, 0] != 255
    keys = np.where(real, tokens[:, :, 0] * 256 + tokens[:, :, 1], -1 - np.arange(200))
    assert all(len(np.unique(row)) == len(row) for row in keys)
    assert all(episode.stats["game/tokens_dropped"] == 0 for _, episode in got.episodes)


def test_converters_run_as_long_as_an_episode_that_was_made_longer() -> None:
    environment = make_environment(env_config("arena", {"task.max_steps": 10, "max_steps": 120}))
    assert isinstance(environment, MettaGridEnvironment) and environment.episode_limit == 120
    spec = environment.spec
    environment.bind(RowBuffers.over(bytearray(RowBuffers.num_bytes(spec, 1)), spec, 1).of_env(0))
    environment.reset(1)
    for _ in range(60):
        environment.step(np.zeros(24, np.int32))
    mines = [found for found in environment.simulator.grid_objects().values() if found["type_name"] == "mine_red"]
    ore = 0  # the first resource
    assert [mine["inventory"][ore] for mine in mines] == [2] * 40  # at ticks 1 and 52


def test_an_unknown_resource_in_the_rewards_is_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.task\.rewards: got 'gold', needs one of ore_red"):
        environment_spec(env_config("arena", {"task.rewards": {"gold": 1.0}}))
