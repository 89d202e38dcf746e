"""What a run says of itself: at its start, while it trains, at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Literal

from metta_train.assembly.design import Design
from metta_train.reporting.next_commands import next_commands
from metta_train.reporting.reporter import RunHeader, RunOutcome
from metta_train.reporting.storage import StorageError
from metta_train.run_config import RunConfig
from metta_train.specs.records import Progress
from metta_train.training import checkpoints
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_status import RunState, RunStatus
from metta_train.training.trainer import Trainer

STATUS_SECONDS = 0.5  # between two status.json of a run that trains; after every short epoch they cost 0.3 % of it


def header_of(design: Design, folder: RunFolder, progress: Progress) -> RunHeader:
    """For the start of the training."""
    config = design.config
    return RunHeader(
        run=config.run,
        folder=folder.paths.folder,
        agent=config.agent_name,
        environment=design.spec.name,
        device=design.device_name,
        total_parameters=sum(p.numel() for p in design.policy.parameters() if p.requires_grad),
        total_timesteps=config.trainer.total_timesteps,
        start_epoch=progress.epoch,
        start_agent_step=progress.agent_step,
        config=config.plain(),
        plan=(design.plan.describe(),),
    )


def status_of(state: RunState, trainer: Trainer, config: RunConfig, message: str | None = None) -> RunStatus:
    """For status.json."""
    return RunStatus(
        state=state,
        epoch=trainer.progress.epoch,
        agent_step=trainer.progress.agent_step,
        total_timesteps=config.trainer.total_timesteps,
        reward=trainer.standing.reward,
        message=message,
    )


class RunningStatus:
    """Keeps status.json close to where a training is.

    Args:
        folder: of the run.
        config: of the run.
        clock: monotonic seconds.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, clock: Callable[[], float] = monotonic) -> None:
        self._folder = folder
        self._config = config
        self._clock = clock
        self._due = clock()

    def epoch_ended(self, trainer: Trainer) -> None:
        """Write it, unless that was done a moment ago."""
        now = self._clock()
        if now < self._due:
            return
        self._due = now + STATUS_SECONDS
        with suppress(StorageError):  # the checkpoints decide whether the disk is good enough
            self._folder.write_status(status_of("running", trainer, self._config))


def outcome_of(
    state: Literal["done", "interrupted", "failed"],
    trainer: Trainer,
    folder: RunFolder,
    config: RunConfig,
    command: Sequence[str],
    message: str = "",
) -> RunOutcome:
    """For the end, with what to type next, unless `command` is empty."""
    saved = checkpoints.checkpoint_folders(folder.paths.checkpoints)
    usual = Path(os.environ.get("DATA_DIR") or "train_dir")  # where the other commands look
    return RunOutcome(
        state=state,
        epoch=trainer.progress.epoch,
        agent_step=trainer.progress.agent_step,
        elapsed=trainer.elapsed,
        message=message,
        checkpoint=saved[-1] if saved else None,
        next_commands=next_commands(
            command,
            run=config.run,
            total_timesteps=config.trainer.total_timesteps,
            agent_step=trainer.progress.agent_step,
            data_dir=None if config.data_dir.resolve() == usual.resolve() else str(config.data_dir),
            saved=bool(saved),
            rewarded=trainer.standing.reward is not None,
        )
        if command
        else (),
    )
