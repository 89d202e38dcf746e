"""Scripted play of a MettaGrid game on a drawn map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mettagrid.config.mettagrid_config import MettaGridConfig
from mettagrid.map_builder.ascii import AsciiMapBuilder
from mettagrid.map_builder.map_builder import MapBuilderConfig

from metta_train.envs.mettagrid import MettaGridEnvironment, MettaGridGame
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.token_features import token_features
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation

SYMBOLS = {
    "#": "wall", ".": "empty", "@": "agent.agent",
    "m": "mine", "a": "altar",
    "M": "mine_red", "G": "generator_red", "A": "altar",
}  # fmt: skip


def drawn_map(rows: Sequence[str]) -> MapBuilderConfig:
    return AsciiMapBuilder.Config(map_data=[list(row) for row in rows], char_to_map_name=SYMBOLS)


@dataclass(frozen=True)
class Thing:
    """An object or agent on the map."""

    name: str
    row: int
    column: int
    inventory: dict[str, int]


class Play:
    """One environment, stepped by action names."""

    def __init__(self, config: MettaGridConfig, seed: int = 0) -> None:
        game = config.game
        spec = EnvironmentSpec(
            name="play",
            num_agents=game.num_agents,
            observation=TokenObservation(
                game.obs.num_tokens, game.obs.height, game.obs.width, token_features(game, [])
            ),
            actions=ActionTable.discrete([action.name for action in game.actions.actions()]),
        )
        self.spec = spec
        self.resources = game.resource_names
        self.features = {feature.id: feature.name for feature in game.id_map().features()}
        self.tags = game.id_map().tag_names()
        self.buffers = RowBuffers.over(bytearray(RowBuffers.num_bytes(spec, 1)), spec, 1).of_env(0)
        self.environment = MettaGridEnvironment(MettaGridGame(config, spec))
        self.environment.bind(self.buffers)
        self.environment.reset(seed)

    def step(self, *names: str) -> list[float]:
        """One step; the rewards, rounded to float32's honest digits."""
        self.environment.step(np.array([self.spec.actions.names.index(name) for name in names], np.int32))
        return [round(float(reward), 5) for reward in self.buffers.rewards]

    def things(self, name: str) -> list[Thing]:
        """All of one type, by position."""
        objects = self.environment.simulator.grid_objects().values()
        things = [
            Thing(
                name,
                row=found["location"][1],
                column=found["location"][0],
                inventory={self.resources[item]: count for item, count in found["inventory"].items()},
            )
            for found in objects
            if found["type_name"] == name
        ]
        return sorted(things, key=lambda thing: (thing.row, thing.column))

    def inventory(self, name: str, index: int = 0) -> dict[str, int]:
        return self.things(name)[index].inventory

    def give(self, agent: int, **items: int) -> None:
        """Replace the inventory of an agent."""
        inventory = {self.resources.index(item): count for item, count in items.items()}
        self.environment.simulator.set_inventory(agent, inventory)

    def tokens(self, agent: int) -> list[tuple[int, str, int]]:
        """(location byte, feature name, value) of every token that is not padding, as written."""
        tokens = np.asarray(self.buffers.observations[agent])
        return [
            (int(place), self.features[int(feature)], int(value)) for place, feature, value in tokens if place != 255
        ]
