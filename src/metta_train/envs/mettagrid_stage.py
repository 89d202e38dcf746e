"""MettaGrid games as a spectator sees them, and replays written by MettaGrid's own writer."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mettagrid.config.mettagrid_config import MettaGridConfig
from mettagrid.simulator.replay_log_writer import EpisodeReplay

from metta_train.envs.mettagrid import MettaGridEnvironment, MettaGridGame
from metta_train.envs.stage import Note, Recorder, Stage
from metta_train.specs.scene import Scene, Thing

if TYPE_CHECKING:
    from mettagrid.mettagrid_c import EpisodeStats, MettaGrid
    from mettagrid.simulator.simulator import BoundingBox, Simulation

WALL = "wall"  # walls never change; MettaGrid's writer looks at them once, too
EVERYWHERE = (-1, -1, -1, -1)


class MettaGridStage(Stage):
    """A MettaGrid game; the grid is read from its simulator."""

    def __init__(self, game: MettaGridGame) -> None:
        self._game = game
        self._environment = MettaGridEnvironment(game)
        self._walls: frozenset[tuple[int, int]] = frozenset()
        self._walls_of: MettaGrid | None = None

    @property
    def environment(self) -> MettaGridEnvironment:
        return self._environment

    def scene(self) -> Scene:
        simulator = self._environment.simulator
        if self._walls_of is not simulator:
            everything = simulator.grid_objects(*EVERYWHERE, []).values()
            self._walls = frozenset((thing["r"], thing["c"]) for thing in everything if thing["type_name"] == WALL)
            self._walls_of = simulator
        resources = self._game.config.game.resource_names
        return Scene(
            height=simulator.map_height,
            width=simulator.map_width,
            walls=self._walls,
            things=tuple(
                Thing(
                    kind=thing["type_name"],
                    row=thing["r"],
                    column=thing["c"],
                    agent=thing.get("agent_id"),
                    holds=tuple((resources[item], amount) for item, amount in sorted(thing["inventory"].items())),
                )
                for thing in simulator.grid_objects(*EVERYWHERE, [WALL]).values()
            ),
            symbols=self._game.config.game.render.symbols,
        )

    def recorder(self) -> Recorder:
        return _MettaGridRecorder(self._game, self._environment.simulator)


class _MettaGridRecorder(Recorder):
    def __init__(self, game: MettaGridGame, simulator: MettaGrid) -> None:
        self._view = _SimulationView(game, simulator)
        # The writer is made for MettaGrid's own Simulation and reads of it what the view has.
        self._replay = EpisodeReplay(cast("Simulation", self._view))

    def step(self, notes: Sequence[Note]) -> None:
        simulator = self._view.simulator
        self._view._context["policy_infos"] = {agent: dict(note) for agent, note in enumerate(notes)}
        self._replay.log_step(simulator.current_step, simulator.actions(), simulator.rewards())

    def finish(self) -> bytes:
        text = json.dumps(self._replay.get_replay_data())
        return zlib.compress(text.encode())


class _SimulationView:
    """What EpisodeReplay reads of a `mettagrid.simulator.Simulation`, under the same names."""

    def __init__(self, game: MettaGridGame, simulator: MettaGrid) -> None:
        self.simulator = simulator
        self.config = _with_agents(game.config)
        self.num_agents = game.spec.num_agents
        self.action_names = list(game.spec.actions.names)
        self.resource_names = list(game.config.game.resource_names)
        self.object_type_names = list(simulator.object_type_names)
        self.map_width = simulator.map_width
        self.map_height = simulator.map_height
        self.seed = 0
        self._context: dict[str, Any] = {}

    @property
    def current_step(self) -> int:
        return self.simulator.current_step

    @property
    def action_success(self) -> list[bool]:
        return self.simulator.action_success()

    @property
    def episode_stats(self) -> EpisodeStats:
        return self.simulator.get_episode_stats()

    def grid_objects(
        self, bbox: BoundingBox | None = None, ignore_types: list[str] | None = None
    ) -> dict[int, dict[str, Any]]:
        assert bbox is None, "EpisodeReplay records the whole map"
        return self.simulator.grid_objects(*EVERYWHERE, ignore_types or [])

    def talk_states(self) -> Mapping[int, Any]:
        return {}  # games with talk are refused


def _with_agents(config: MettaGridConfig) -> MettaGridConfig:
    """The config with every agent by itself, as MettaGrid's Simulation has it after its start."""
    game = config.game
    agents = game.agents or [game.agent] * game.num_agents
    return config.model_copy(update={"game": game.model_copy(update={"agents": agents})})
