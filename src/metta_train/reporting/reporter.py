"""What a reporter is, and the fan-out that tells all of them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metta_train.specs.records import EpochRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What is known when a training starts.

    Attributes:
        run: name of the run.
        folder: the run folder.
        agent: name of the agent, e.g. "fast" or "py:fast".
        environment: name of the EnvironmentSpec.
        device: e.g. "cpu" or "cuda:0 (NVIDIA H200)".
        total_parameters: trained parameters of the policy.
        total_timesteps: agent steps asked for.
        start_epoch: epochs that were done before, 0 for a fresh run.
        start_agent_step: agent steps that were done before.
        config: the composed configuration, without secrets.
        plan: short lines about batch, envs, workers and precision.
    """

    run: str
    folder: Path
    agent: str
    environment: str
    device: str
    total_parameters: int
    total_timesteps: int
    start_epoch: int = 0
    start_agent_step: int = 0
    config: Mapping[str, object] = field(default_factory=dict)
    plan: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NextCommand:
    """A command that makes sense after this run, ready to be pasted into a shell."""

    purpose: str
    command: str


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a training ended.

    Attributes:
        state: "done", "interrupted" (stopped on request, can go on) or "failed".
        epoch: epochs done.
        agent_step: agent steps done.
        elapsed: wall seconds of this process's training.
        message: why it failed or stopped, one line; empty when done.
        checkpoint: the newest checkpoint; None when there is none.
        next_commands: printed in this order.
        patience: seconds that reporters may take to finish; None leaves it to them.
    """

    state: Literal["done", "interrupted", "failed"]
    epoch: int
    agent_step: int
    elapsed: float
    message: str = ""
    checkpoint: Path | None = None
    next_commands: tuple[NextCommand, ...] = ()
    patience: float | None = None


class Reporter(ABC):
    """Hears about a training; called from the training's own thread, so every method returns quickly.

    Attributes:
        name: for messages.
        essential: an OSError of an essential reporter stops the training; any other reporter is dropped instead.
    """

    name: str
    essential: bool = False

    @abstractmethod
    def start(self, header: RunHeader) -> None:
        """Once, before the first epoch."""

    @abstractmethod
    def record(self, record: EpochRecord) -> None:
        """Once per epoch."""

    @abstractmethod
    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        """After a checkpoint is complete on the disk."""

    def video_saved(self, path: Path, name: str) -> None:
        """A film of the epoch that is reported next, and the name of what it shows. For reporters that show films."""
        return

    def rolled_back(self, agent_step: int) -> None:
        """The run goes on from `agent_step`, in another way than before. For reporters that keep a record."""
        return

    @abstractmethod
    def finish(self, outcome: RunOutcome) -> None:
        """Once, also after a failure; frees what the reporter holds."""


class Reporters(Reporter):
    """Tells several reporters, in order; one that cannot write is named once and left out from then on."""

    name = "reporting"
    essential = True

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = list(reporters)
        self._finished = False

    def start(self, header: RunHeader) -> None:
        self._tell(lambda reporter: reporter.start(header))

    def record(self, record: EpochRecord) -> None:
        self._tell(lambda reporter: reporter.record(record))

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        self._tell(lambda reporter: reporter.checkpoint_saved(path, epoch, agent_step))

    def video_saved(self, path: Path, name: str) -> None:
        self._tell(lambda reporter: reporter.video_saved(path, name))

    def rolled_back(self, agent_step: int) -> None:
        self._tell(lambda reporter: reporter.rolled_back(agent_step))

    def finish(self, outcome: RunOutcome) -> None:
        """Finish every reporter, even if one of them fails; a second call does nothing."""
        if self._finished:
            return
        self._finished = True
        self._tell(lambda reporter: reporter.finish(outcome), stop_at_essential=False)

    def _tell(self, message: Callable[[Reporter], None], *, stop_at_essential: bool = True) -> None:
        for reporter in list(self._reporters):
            try:
                message(reporter)
            except OSError as error:
                if reporter.essential and stop_at_essential:
                    raise
                logger.warning("%s cannot report (%s); the training goes on without it", reporter.name, error)
                self._reporters.remove(reporter)
