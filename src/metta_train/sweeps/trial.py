"""One trial of a search, and the file that remembers all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Literal

from pydantic import ConfigDict, ValidationError

from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.config_model import ConfigModel
from metta_train.sweeps.config import Value, Values

TrialState = Literal["running", "done", "pruned", "failed", "stopped"]
ENDED: tuple[TrialState, ...] = ("done", "pruned", "failed")


@dataclass(frozen=True, slots=True)
class Trial:
    """A run of a search.

    Attributes:
        number: from 0.
        values: what the search chose.
        state: "stopped" means that it goes on with the search; so does "running" that a killed search leaves behind.
        score: the metric, of a trial that is done or was pruned.
        seconds: wall time of its training.
        agent_step: agent steps done.
        code: exit code of its process.
        reason: why it failed.
    """

    number: int
    values: Values = field(default_factory=dict)
    state: TrialState = "running"
    score: float | None = None
    seconds: float | None = None
    agent_step: int = 0
    code: int = 0
    reason: str | None = None

    @property
    def name(self) -> str:
        """Of its folder in that of the search."""
        return f"trial-{self.number:04d}"

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class _TrialLine(ConfigModel):
    model_config = ConfigDict(extra="ignore")

    number: int
    values: dict[str, Value]
    state: TrialState
    score: float | None
    seconds: float | None
    agent_step: int
    code: int
    reason: str | None


class TrialLog:
    """`trials.jsonl`: a line for each change of a trial; the last one counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[int, Trial]:
        """By number, in their order; a torn last line, left by a crash, is skipped.

        Raises:
            ConfigError: another line cannot be read.
        """
        with storage_errors("read", self._path):
            try:
                lines = self._path.read_bytes().splitlines(keepends=True)
            except FileNotFoundError:
                return {}
        found: dict[int, Trial] = {}
        for position, line in enumerate(lines, start=1):
            try:
                trial = Trial(**_TrialLine.model_validate_json(line).model_dump())
            except ValidationError:
                if position == len(lines):
                    break
                raise ConfigError(f"{self._path}, line {position}: not a trial") from None
            found[trial.number] = trial
        return dict(sorted(found.items()))

    def write(self, trial: Trial) -> None:
        """Raises StorageError."""
        with storage_errors("write", self._path), self._path.open("a+b") as file:
            file.truncate(_whole_lines(file))
            file.write(json.dumps(asdict(trial), allow_nan=False).encode() + b"\n")


def _whole_lines(file: IO[bytes]) -> int:
    """Bytes up to the end of the last whole line."""
    file.seek(0)
    return file.read().rfind(b"\n") + 1
