"""An episode written by hand: two agents on a small map, one of them walks to the right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from metta_train.playback.moments import Cast, Decision, Moment, Source
from metta_train.specs.scene import Scene, Thing

ACTIONS = ("noop", "move_west", "move_east")
HEIGHT, WIDTH = 5, 9
WALLS = frozenset(
    (row, column)
    for row in range(HEIGHT)
    for column in range(WIDTH)
    if row in (0, HEIGHT - 1) or column in (0, WIDTH - 1)
)


class ScriptedSource(Source):
    """`steps` steps; agent 0 earns 1 in every one of them, agent 1 nothing."""

    def __init__(self, steps: int = 4, *, image: bool = False, kinds: tuple[str, ...] = ("altar", "mine")) -> None:
        self.steps = steps
        self.image = image
        self.kinds = kinds
        self.asked: list[int] = []  # episodes
        self.played = 0  # moments

    @property
    def cast(self) -> Cast:
        return Cast("mine:100", "corridor", ACTIONS, 2, (3, 3), self.steps, "greedy")

    def moments(self, episode: int) -> Iterator[Moment]:
        self.asked.append(episode)
        for step in range(self.steps + 1):
            self.played += 1
            yield self.moment(step)

    def moment(self, step: int) -> Moment:
        things = [Thing(kind, 3, 2 + index) for index, kind in enumerate(self.kinds)]
        things.append(Thing("agent", 1, 1 + min(step, WIDTH - 3), agent=0, holds=(("ore", step),) if step else ()))
        things.append(Thing("agent", 3, 7, agent=1))
        decision = Decision(
            actions=np.array([2, 0]),
            probabilities=np.array([[0.125, 0.25, 0.625], [1.0, 0.0, 0.0]], np.float32),
            values=np.array([1.5, -0.25], np.float32),
        )
        picture = np.full((40, 60, 3), (255, 0, 10 * step), np.uint8)
        return Moment(
            step=step,
            scene=None if self.image else Scene(HEIGHT, WIDTH, WALLS, tuple(things)),
            image=picture if self.image else None,
            rewards=np.array([1.0 if step else 0.0, 0.0], np.float32),
            totals=np.array([float(step), 0.0]),
            decision=None if step == self.steps else decision,
        )

    def replay(self) -> bytes:
        raise AssertionError("scripted episodes have no replay")

    def close(self) -> None:
        """Nothing is open."""
