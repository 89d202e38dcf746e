"""Which checkpoints stay: the newest, the best and the milestones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metta_train.training import checkpoints
from metta_train.training.checkpoint_files import DamagedCheckpointError, IncompatibleCheckpointError
from metta_train.training.checkpoint_listing import by_score
from metta_train.training.checkpoints import CheckpointSummary
from metta_train.training.config import CheckpointConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """Decides from what is on the disk; damaged checkpoints neither count nor go."""

    keep_last: int  # newest ones, at least 2: the newest may turn out to be damaged
    keep_best: int  # by score
    keep_every: int  # epochs between those that stay for ever; 0 = none

    @classmethod
    def of(cls, config: CheckpointConfig) -> Retention:
        return cls(config.keep_last, config.keep_best, config.keep_every)

    def expired(self, saved: Sequence[CheckpointSummary]) -> tuple[CheckpointSummary, ...]:
        """Those of `saved` that may go, oldest first."""
        in_order = sorted(saved, key=lambda summary: summary.agent_step)
        kept = {summary.path for summary in in_order[-self.keep_last :]}
        if self.keep_best:
            kept |= {summary.path for summary in by_score(in_order)[-self.keep_best :]}
        if self.keep_every:
            kept |= {summary.path for summary in in_order if summary.epoch % self.keep_every == 0}
        return tuple(summary for summary in in_order if summary.path not in kept)


def prune(folder: Path, retention: Retention) -> None:
    """Remove what has expired. What cannot be read or removed stays, with a warning: the training goes on."""
    saved: list[CheckpointSummary] = []
    try:
        for path in checkpoints.checkpoint_folders(folder):
            try:
                saved.append(checkpoints.summary(path))
            except (DamagedCheckpointError, IncompatibleCheckpointError) as error:
                logger.warning("a checkpoint is damaged and is left alone: %s", error)
        for summary in retention.expired(saved):
            checkpoints.remove(summary.path)
    except OSError as error:
        logger.warning("old checkpoints stay for now: %s", error)
