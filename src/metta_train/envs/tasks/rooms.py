"""A map of equal rooms: random objects and agents in each, drawn from one seed."""

from __future__ import annotations

import math

import numpy as np
from mettagrid.map_builder.map_builder import GameMap, MapBuilder, MapBuilderConfig
from pydantic import Field


class RoomsMapConfig(MapBuilderConfig["RoomsMap"]):
    """Layout of the rooms, as square a grid of them as possible; sizes are in cells."""

    seed: int | None = Field(default=None, ge=0)
    rooms: int = Field(ge=1)
    height: int = Field(ge=1, description="inner height of one room")
    width: int = Field(ge=1, description="inner width of one room")
    room_wall: int = Field(default=0, ge=0, description="thickness of the wall around each room")
    gap: int = Field(default=0, ge=0, description="empty cells between the walls of neighbouring rooms")
    border: int = Field(default=0, ge=0, description="thickness of the wall around the whole map")
    agents: int = Field(ge=0, description="agents per room")
    objects: dict[str, int] = Field(description="objects per room, by their map names")


class RoomsMap(MapBuilder[RoomsMapConfig]):
    """Builds the map in a few NumPy calls, because every episode needs a new one."""

    def __init__(self, config: RoomsMapConfig) -> None:
        super().__init__(config)
        cells = config.height * config.width
        symbols = [name for name, count in config.objects.items() for _ in range(count)]
        symbols += ["agent.agent"] * config.agents
        if len(symbols) > cells:
            raise ValueError(f"a room of {config.height}x{config.width} cells cannot hold {len(symbols)} things")
        self._cells = np.array(symbols + ["empty"] * (cells - len(symbols)), dtype="<U16")

    def build(self) -> GameMap:
        """The same seed gives the same map."""
        config = self.config
        rng = np.random.default_rng(config.seed)
        rows = math.ceil(math.sqrt(config.rooms))
        columns = math.ceil(config.rooms / rows)
        outer_height, outer_width = config.height + 2 * config.room_wall, config.width + 2 * config.room_wall
        pitch_height, pitch_width = outer_height + config.gap, outer_width + config.gap
        height = rows * pitch_height - config.gap + 2 * config.border
        width = columns * pitch_width - config.gap + 2 * config.border
        grid = np.full((height, width), "empty", dtype=self._cells.dtype)
        if config.border:
            grid[:] = "wall"
            grid[config.border : -config.border, config.border : -config.border] = "empty"
        for room in range(config.rooms):
            top = config.border + room // columns * pitch_height
            left = config.border + room % columns * pitch_width
            grid[top : top + outer_height, left : left + outer_width] = "wall"
            top, left = top + config.room_wall, left + config.room_wall
            grid[top : top + config.height, left : left + config.width] = rng.permutation(self._cells).reshape(
                config.height, config.width
            )
        return GameMap(grid)
