"""`metrics.jsonl`: the complete record of a run, one flat JSON object per epoch."""

from __future__ import annotations

import errno
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from metta_train.reporting.metric_names import AGENT_STEP, metrics_of
from metta_train.reporting.reporter import Reporter, RunHeader, RunOutcome
from metta_train.reporting.storage import storage_errors
from metta_train.specs.records import EpochRecord

logger = logging.getLogger(__name__)


class JsonlReporter(Reporter):
    """Appends one line per epoch; NaN and infinity, which JSON does not have, become null.

    When a run goes on from a checkpoint, lines beyond its agent step are removed first, so that every step appears
    once. Lines that a full disk refuses are kept and written with the next ones; only the end of the run insists.
    """

    name = "metrics.jsonl"
    essential = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._size = 0  # bytes of whole lines in the file
        self._pending: list[bytes] = []

    def start(self, header: RunHeader) -> None:
        with storage_errors("write", self._path):
            truncate_metrics(self._path, header.start_agent_step)
            self._file = self._path.open("ab", buffering=0)
            self._size = self._file.tell()

    def record(self, record: EpochRecord) -> None:
        assert self._file is not None, "record() before start()"
        line = {name: value if math.isfinite(value) else None for name, value in metrics_of(record).items()}
        waiting = len(self._pending)
        self._pending.append(json.dumps(line, allow_nan=False).encode() + b"\n")
        try:
            self._write_pending(self._file)
        except OSError as error:
            if waiting == 0:
                logger.warning("%s cannot be written (%s); its lines are kept until it can", self._path, error)

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        pass

    def rolled_back(self, agent_step: int) -> None:
        assert self._file is not None, "rolled_back() before start()"
        self._pending.clear()
        with storage_errors("write", self._path):
            truncate_metrics(self._path, agent_step)
            self._size = self._path.stat().st_size

    def finish(self, outcome: RunOutcome) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        with storage_errors("write", self._path), file:
            self._write_pending(file)

    def _write_pending(self, file: IO[bytes]) -> None:
        while self._pending:
            line = self._pending[0]
            if file.write(line) != len(line):
                file.truncate(self._size)  # a torn line would swallow the next one
                raise OSError(errno.ENOSPC, "the disk is full")
            self._size += len(line)
            self._pending.pop(0)


def read_metrics(path: Path) -> Iterator[dict[str, float | None]]:
    """The epochs in a metrics file; a torn last line, left by a crash, is skipped.

    Raises:
        ValueError: another line is not a JSON object with an agent step.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            metrics = parse_metrics_line(line)
            if metrics is None:
                raise ValueError(f"{path}, line {number}: not a JSON object with {AGENT_STEP!r}")
            yield metrics


def truncate_metrics(path: Path, agent_step: int) -> None:
    """Cut the file before the first line that is torn or lies beyond `agent_step` (0 empties it)."""
    if not path.exists():
        return
    keep = 0
    with path.open("r+b") as file:
        for line in file:
            metrics = parse_metrics_line(line) if line.endswith(b"\n") else None
            if metrics is None or (metrics[AGENT_STEP] or 0) > agent_step:
                break
            keep += len(line)
        file.truncate(keep)


def parse_metrics_line(line: bytes) -> dict[str, float | None] | None:
    """One line of a metrics file; None when it is not a JSON object with an agent step."""
    try:
        metrics = json.loads(line)
    except ValueError:
        return None
    if not isinstance(metrics, dict) or not isinstance(metrics.get(AGENT_STEP), (int, float)):
        return None
    return cast("dict[str, float | None]", metrics)
