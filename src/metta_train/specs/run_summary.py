"""Typed records about runs on the disk: what the catalog reads and what tables show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RunCondition = Literal["running", "done", "failed", "interrupted", "crashed"]


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One saved checkpoint as its small files tell it; nothing is hashed.

    Attributes:
        name: of its folder, e.g. "step-000001001472".
        path: of its folder.
        agent_step: as the folder's name says.
        size: bytes of all its files.
        modified: seconds since 1970; for people, no decision depends on it.
        epoch: epochs done; None when the small files are not readable.
        score: what checkpoints are compared by, larger is better; None when training stored none.
        scored_by: what the score is: the name of a suite or environment that was evaluated, or "reward".
        agent: e.g. "agent=fast".
        environment: name of the environment.
        problem: why it cannot be used, as far as the small files show it.
    """

    name: str
    path: Path
    agent_step: int
    size: int
    modified: float
    epoch: int | None = None
    score: float | None = None
    scored_by: str = "reward"
    agent: str = ""
    environment: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run at a glance.

    Attributes:
        name: of the run.
        folder: of the run.
        condition: "crashed" when it says that it runs and no process holds its lock.
        epoch: epochs done.
        agent_step: agent steps done.
        total_timesteps: agent steps asked for; 0 when unknown.
        reward: mean reward of recent episodes.
        steps_per_second: agent steps per second: of the last epochs while it runs, of all epochs afterwards.
        age: seconds since the run's last sign of life.
        checkpoints: how many there are.
        agent: e.g. "agent=fast"; empty before the first checkpoint.
        environment: its name; empty before the first checkpoint.
        message: why it failed or stopped.
        rewards: the curve so far, in a few points.
    """

    name: str
    folder: Path
    condition: RunCondition
    epoch: int
    agent_step: int
    total_timesteps: int
    reward: float | None
    steps_per_second: float | None
    age: float
    checkpoints: int
    agent: str = ""
    environment: str = ""
    message: str | None = None
    rewards: tuple[float, ...] = ()
