"""Saving on disks that fail: verified, repeated, and given up only when that would lose the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from metta_train.reporting.storage import StorageError, sync_file
from metta_train.training import checkpoints
from metta_train.training.checkpoint_files import DamagedCheckpointError
from metta_train.training.retention import Retention, prune

BACKOFF = (0.5, 1.0, 2.0)  # seconds before another try of the same save
FAILED_SAVES = 3  # in a row, after which the training ends

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the checkpoints of one training.

    Args:
        folder: of the checkpoints.
        retention: what stays.
        good: the checkpoint that the run continues from.
        records: files that grow with the run; they are put on the disk first, so that a checkpoint never stands for
            more epochs than they hold.
        sleep: waits between tries.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        good: Path | None,
        records: Sequence[Path] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._retention = retention
        self._good = good
        self._records = records
        self._sleep = sleep
        self._failed = 0

    def write(self, save: Callable[[Path], Path], *, last: bool) -> Path | None:
        """Save, verify what the disk has, and remove what has expired.

        Args:
            save: writes into the folder and returns the checkpoint.
            last: no other save will follow.

        Returns:
            The checkpoint; None when the disk refused and an older one is good enough to go on.

        Raises:
            StorageError: the disk refused, and going on would risk the run.
        """
        try:
            path = self._repeated(save)
        except StorageError as error:
            self._failed += 1
            if last or self._good is None or self._failed >= FAILED_SAVES:
                raise
            logger.warning(
                "%s. The training goes on; %s is still good (failed save %d of %d)",
                error,
                self._good.name,
                self._failed,
                FAILED_SAVES,
            )
            return None
        self._failed = 0
        self._good = path
        prune(self._folder, self._retention)
        return path

    def _repeated(self, save: Callable[[Path], Path]) -> Path:
        for seconds in (*BACKOFF, None):
            try:
                for file in self._records:
                    sync_file(file)
                path = save(self._folder)
                checkpoints.verify(path)
                return path
            except DamagedCheckpointError as error:
                failure = StorageError(f"the disk gave back something else than was written: {error}")
            except StorageError as error:
                failure = error
            if seconds is None:
                raise failure
            logger.warning("%s; trying again", failure)
            self._sleep(seconds)
        raise AssertionError("the last try returns or raises")
