"""A trial as a process: `metta-train`, watched through the metrics that it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from metta_train.reporting.curves import Curve, Metrics, curve
from metta_train.reporting.jsonl import parse_metrics_line
from metta_train.reporting.metric_names import AGENT_STEP, TOTAL_TIME
from metta_train.reporting.storage import storage_errors

STOP_PATIENCE = 120.0  # seconds that a trial may take to save
_LAST_BYTES = 8 << 10


class MetricsTail:
    """The epochs of a metrics file that grows; a file that became shorter is read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.epochs: list[Metrics] = []

    def update(self) -> None:
        """Read what is new. Raises StorageError."""
        with storage_errors("read", self._path):
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                return
            with file:
                if file.seek(0, os.SEEK_END) < self._read:
                    self._read = 0
                    self.epochs.clear()
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    if (metrics := parse_metrics_line(line)) is not None:
                        self.epochs.append(metrics)

    def curve(self, metric: str) -> Curve:
        return curve(self.epochs, metric)

    @property
    def agent_step(self) -> int:
        return int(self.epochs[-1].get(AGENT_STEP) or 0) if self.epochs else 0

    @property
    def seconds(self) -> float | None:
        """Wall time of the whole run."""
        return self.epochs[-1].get(TOTAL_TIME) if self.epochs else None


class TrialProcess:
    """One running trial.

    Args:
        command: program and arguments.
        log: what it prints goes here.
        metrics: the file that it writes.
        environ: what its environment has beside ours.
    """

    def __init__(self, command: Sequence[str], log: Path, metrics: Path, environ: Mapping[str, str]) -> None:
        self.tail = MetricsTail(metrics)
        self.asked_to_stop = False
        self._log = log
        self._deadline = 0.0
        with storage_errors("write", log):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("ab")
        with file:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the search's to handle
            )

    def poll(self) -> int | None:
        """The exit code; None while it runs. One that was asked to stop and does not is killed."""
        if self.asked_to_stop and time.monotonic() > self._deadline:
            self._process.kill()
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to save and end."""
        if not self.asked_to_stop:
            self.asked_to_stop = True
            self._deadline = time.monotonic() + STOP_PATIENCE
            self._process.terminate()

    def reason(self, code: int) -> str:
        """Why it failed, in a line: its own last words, unless it was killed."""
        if code < 0:
            name = signal.Signals(-code).name
            return f"ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
        with storage_errors("read", self._log), self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        words = [line for line in lines if line]
        return words[-1] if words else f"exit code {code}"
