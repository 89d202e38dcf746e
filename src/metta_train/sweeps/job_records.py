"""What every job of a sweep left behind: one small file each, so that jobs in other processes can tell how they ended.

<data_dir>/<sweep>/
    <job>/              the run
    sweep.csv           one line per job
    .jobs/<job>.json    one record per job; .jobs/stop-<start> asks the jobs of one start not to begin
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, ValidationError

from metta_train.reporting.metric_names import REWARD
from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.specs.config_model import ConfigModel

JobState = Literal["running", "done", "failed", "interrupted"]

FOLDER = ".jobs"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job of a sweep.

    Attributes:
        run: name of its run.
        start: which start of the sweep it belongs to.
        number: in that start.
        state: "running" is also what a job that was killed leaves behind.
        values: what sets it apart from the others, key -> value as text.
        code: its exit code.
        reason: why it failed or stopped; one line.
        skipped: it was done before, and nothing about it changed.
        objective: what it is worth; None when nothing was measured.
        metric: the name of that.
        agent_step: agent steps done.
        seconds: wall time of the whole run.
        host: where it runs.
        pid: its process there.
    """

    run: str
    start: str
    number: int
    state: JobState
    values: Mapping[str, str] = field(default_factory=dict)
    code: int = 0
    reason: str | None = None
    skipped: bool = False
    objective: float | None = None
    metric: str = REWARD
    agent_step: int = 0
    seconds: float | None = None
    host: str = ""
    pid: int = 0


class _JobFile(ConfigModel):
    model_config = ConfigDict(extra="ignore")

    run: str
    start: str
    number: int
    state: JobState
    values: dict[str, str]
    code: int
    reason: str | None
    skipped: bool
    objective: float | None
    metric: str = REWARD
    agent_step: int
    seconds: float | None
    host: str
    pid: int


class JobRecords:
    """The records of one sweep."""

    def __init__(self, sweep_folder: Path) -> None:
        self._folder = sweep_folder / FOLDER

    def write(self, record: JobRecord) -> None:
        """Replace the record of a job. Raises StorageError."""
        file = self._folder / f"{record.run.replace('/', '__')}.json"
        with storage_errors("write", file):
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(file, json.dumps(asdict(record), indent=2, allow_nan=False).encode() + b"\n", durable=False)

    def read(self) -> tuple[JobRecord, ...]:
        """All records, by name of the run; files that are no records are left out."""
        found: list[JobRecord] = []
        for file in sorted(self._folder.glob("*.json")):
            with suppress(ValidationError), storage_errors("read", file):
                found.append(JobRecord(**_JobFile.model_validate_json(file.read_bytes()).model_dump()))
        return tuple(found)

    def of_start(self, start: str) -> tuple[JobRecord, ...]:
        """Those of one start of the sweep, in the order of their numbers."""
        return tuple(sorted((r for r in self.read() if r.start == start), key=lambda record: record.number))

    def ask_to_stop(self, start: str) -> None:
        """No further job of this start begins."""
        with storage_errors("write", self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stop_file(start).touch()

    def asked_to_stop(self, start: str) -> bool:
        return self._stop_file(start).exists()

    def forget_stop(self, start: str) -> None:
        self._stop_file(start).unlink(missing_ok=True)

    def _stop_file(self, start: str) -> Path:
        return self._folder / f"stop-{start}"
