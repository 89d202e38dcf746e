"""What a spectator sees, and replays as MettaGrid writes them."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from mettagrid.config.mettagrid_config import MettaGridConfig
from mettagrid.simulator.replay_log_writer import InMemoryReplayWriter
from mettagrid.simulator.simulator import Simulation

from metta_train.envs.build import make_stage
from metta_train.envs.config import ForageTask, GymnasiumEnvConfig, MettaGridEnvConfig
from metta_train.envs.mettagrid import load_game
from metta_train.envs.mettagrid_stage import MettaGridStage
from metta_train.envs.stage import buffers_for
from metta_train.envs.tasks.forage import forage_game
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.scene import Thing
from tests.envs.env_configs import env_config
from tests.envs.mettagrid_play import drawn_map

NOOP, NORTH, SOUTH, WEST, EAST = range(5)
ROOM = ["######", "#@m.a#", "#....#", "#..@.#", "######"]


def room(max_steps: int = 6) -> MettaGridConfig:
    config = env_config("forage")
    assert isinstance(config, MettaGridEnvConfig) and isinstance(config.task, ForageTask)
    game = forage_game(config.task.model_copy(update={"max_steps": max_steps}))
    game.game.num_agents = 2
    game.game.map_builder = drawn_map(ROOM)
    return game


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory) -> MettaGridStage:
    file = tmp_path_factory.mktemp("game") / "room.json"
    file.write_text(room().model_dump_json())
    config = env_config("mettagrid", {"config": str(file)})
    assert isinstance(config, MettaGridEnvConfig)
    stage = make_stage(config)
    assert isinstance(stage, MettaGridStage)
    stage.environment.bind(buffers_for(stage.environment.spec))
    stage.environment.reset(seed=0)
    return stage


def step(stage: MettaGridStage, *actions: int) -> None:
    stage.environment.step(np.array(actions, np.int32))


def test_the_scene_is_the_map_as_it_stands(stage: MettaGridStage) -> None:
    scene = stage.scene()
    assert (scene.height, scene.width) == (5, 6)
    assert scene.walls == {(r, c) for r, row in enumerate(ROOM) for c, cell in enumerate(row) if cell == "#"}
    assert scene.kinds == ("altar", "mine")
    assert sorted(scene.things, key=lambda thing: (thing.row, thing.column)) == [
        Thing("agent", 1, 1, agent=0), Thing("mine", 1, 2), Thing("altar", 1, 4), Thing("agent", 3, 3, agent=1),
    ]  # fmt: skip
    step(stage, EAST, NORTH)  # into the mine, and one up
    after = stage.scene()
    assert after.agent(0) == Thing("agent", 1, 1, agent=0, holds=(("ore", 1),))
    assert after.agent(1) == Thing("agent", 2, 3, agent=1)
    assert after.walls is scene.walls and stage.image() is None


SCRIPT = [(EAST, NORTH), (SOUTH, WEST), (EAST, NOOP), (NORTH, NORTH), (WEST, SOUTH), (NOOP, EAST)]


def recorded_by_mettagrid(script: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """The same episode in MettaGrid's own simulation with its own writer."""
    game = room()
    game.game.episode_truncates = True
    while True:  # which agent gets which place is random there
        writer = InMemoryReplayWriter()
        simulation = Simulation(game, seed=0, event_handlers=[writer])
        if all(
            thing["location"] == (1, 1) for thing in simulation.grid_objects().values() if thing.get("agent_id") == 0
        ):
            break
    for actions in script:
        simulation._c_sim.actions()[:] = actions
        simulation.step()
    (replay,) = writer.get_completed_replays()
    return replay.get_replay_data()


def test_a_replay_is_the_one_that_mettagrid_itself_would_write(stage: MettaGridStage) -> None:
    recorder = stage.recorder()
    for actions in SCRIPT:
        step(stage, *actions)
        recorder.step([{"value": 0.5, "agent": agent} for agent in range(2)])
    data = json.loads(zlib.decompress(recorder.finish()))
    infos = [thing.pop("policy_infos") for thing in data["objects"] if "agent_id" in thing]
    assert infos == [{"agent": 0, "value": 0.5}, {"agent": 1, "value": 0.5}]
    expected = json.loads(json.dumps(recorded_by_mettagrid(SCRIPT)))
    for replay in (data, expected):
        del replay["infos"]["attributes"]["seed"]  # of the simulator; nothing is random in this room
        for name in ("tokens_written", "tokens_free_space"):  # binding buffers writes the first observation again
            del replay["infos"]["game"][name]
        assert len(MettaGridConfig.model_validate(replay.pop("mg_config")).game.agents) == 2
    assert data["version"] == 4 and data["max_steps"] == len(SCRIPT)
    assert data == expected


def test_notes_are_kept_within_mettagrids_limit(stage: MettaGridStage) -> None:
    recorder = stage.recorder()
    step(stage, NOOP, NOOP)
    recorder.step([{"value": 1, "long": "x" * 2000}] * 2)
    data = json.loads(zlib.decompress(recorder.finish()))
    assert [thing["policy_infos"] for thing in data["objects"] if "agent_id" in thing] == [{"value": 1}] * 2


class Drawing(gymnasium.Env[np.ndarray, np.int64]):
    """Draws its step as a shade of red."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # Gymnasium's own type

    def __init__(self, render_mode: str | None = None, missing: bool = False) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.render_mode = render_mode
        self._missing = missing
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self) -> np.ndarray:
        if self._missing:
            raise gymnasium.error.DependencyNotInstalled("paintbrush is not installed")
        assert self.render_mode == "rgb_array"
        return np.full((4, 6, 3), (10 * self._steps, 0, 0), np.uint8)


class Silent(Drawing):
    """Draws nothing, and does not know the word."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()


def gymnasium_config(kind: type[gymnasium.Env], **kwargs: object) -> GymnasiumEnvConfig:
    name = f"tests/{kind.__name__}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, kind, max_episode_steps=5)
    config = env_config("gymnasium", {"id": name, "kwargs": kwargs})
    assert isinstance(config, GymnasiumEnvConfig)
    return config


def test_gymnasium_environments_draw_themselves() -> None:
    stage = make_stage(gymnasium_config(Drawing), pictures=True)
    stage.environment.bind(buffers_for(stage.environment.spec))
    stage.environment.reset(0)
    stage.environment.step(np.zeros(1, np.int32))
    image = stage.image()
    assert image is not None and image.shape == (4, 6, 3) and image[0, 0].tolist() == [10, 0, 0]
    assert stage.scene() is None
    with pytest.raises(ConfigError, match="has no replay format"):
        stage.recorder()
    assert make_stage(gymnasium_config(Drawing)).image() is None, "not asked for"


def test_what_cannot_be_drawn_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=re.escape("env.id=tests/Silent-v0: draws no pictures")):
        make_stage(gymnasium_config(Silent), pictures=True)
    with pytest.raises(ValueError, match="needs a package that is not installed: paintbrush"):
        make_stage(gymnasium_config(Drawing, missing=True), pictures=True)
    make_stage(gymnasium_config(Silent))


def test_games_of_files_keep_their_own_symbols(stage: MettaGridStage) -> None:
    game = load_game(env_config("forage"))  # pyright: ignore[reportArgumentType]
    game.config.game.render.symbols = {"altar": "🔥"}
    other = MettaGridStage(game)
    other.environment.bind(buffers_for(game.spec))
    other.environment.reset(seed=1)
    assert other.scene().symbols == {"altar": "🔥"} and stage.scene().symbols == {}
