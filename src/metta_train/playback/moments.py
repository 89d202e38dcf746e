"""An episode as a spectator follows it, one moment after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta_train.specs.scene import Scene


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy does at a moment; n actions, A agents."""

    actions: NDArray[np.int64]  # [A] indices of the action table
    probabilities: NDArray[np.float32] | None  # [A, n]; None where a replay does not tell them
    values: NDArray[np.float32] | None  # [A] the policy's estimate of the return from here


@dataclass(frozen=True, slots=True)
class Moment:
    """An episode after `step` steps, and what is decided there."""

    step: int
    scene: Scene | None  # of a grid world
    image: NDArray[np.uint8] | None  # [height, width, 3], drawn by the environment itself
    rewards: NDArray[np.float32]  # [A] of the step that led here
    totals: NDArray[np.float64]  # [A] since the start
    decision: Decision | None  # None at the end

    @property
    def score(self) -> float:
        """The reward so far, mean over the agents: what metta-eval reports of an episode."""
        return float(self.totals.mean())


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays where: what stays the same over all episodes of one command."""

    policy: str  # "mine:301056", "random"
    environment: str
    actions: tuple[str, ...]
    num_agents: int
    window: tuple[int, int] | None  # (height, width) of what an agent of a grid world sees
    limit: int | None  # steps of an episode at most
    how: str  # "greedy", "actions sampled", "replay"


class Source(ABC):
    """Where episodes come from."""

    @property
    @abstractmethod
    def cast(self) -> Cast: ...

    @abstractmethod
    def moments(self, episode: int) -> Iterator[Moment]:
        """The episode of this number, from 1, moment by moment; the last one has no decision."""

    @abstractmethod
    def replay(self) -> bytes:
        """The replay file of the episode whose moments were taken last."""

    @abstractmethod
    def close(self) -> None: ...
