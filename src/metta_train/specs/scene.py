"""What a spectator sees of a grid world: plain records that environments fill and that playback draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of the grid, walls excepted."""

    kind: str  # e.g. "altar"
    row: int
    column: int
    agent: int | None = None  # its number, if it is an agent
    holds: tuple[tuple[str, int], ...] = ()  # (resource, amount), amounts above 0


@dataclass(frozen=True, slots=True)
class Scene:
    """A grid world at one moment; rows count from the top, columns from the left."""

    height: int
    width: int
    walls: frozenset[tuple[int, int]]  # (row, column)
    things: tuple[Thing, ...]
    symbols: Mapping[str, str] = field(default_factory=dict)  # by kind, where the game has some of its own

    def agent(self, number: int) -> Thing | None:
        """The agent of this number; None when it is not on the grid."""
        return next((thing for thing in self.things if thing.agent == number), None)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of things that are no agents, sorted."""
        return tuple(sorted({thing.kind for thing in self.things if thing.agent is None}))
