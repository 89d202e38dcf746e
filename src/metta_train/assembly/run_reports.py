"""What a run says of itself: at its start, while it trains, at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from metta_train.assembly.design import Design
from metta_train.reporting.next_commands import next_commands
from metta_train.reporting.reporter import RunHeader, RunOutcome
from metta_train.run_config import RunConfig
from metta_train.specs.records import Progress
from metta_train.training import checkpoints
from metta_train.training.run_folder import RunFolder, RunState, RunStatus
from metta_train.training.trainer import Trainer


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
