"""status.json: how far a run is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import ValidationError

from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.specs.config_model import ConfigModel
from metta_train.training.run_paths import RunPaths
from metta_train.training.timestamps import utc_now

RunState = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is.

    Attributes:
        state: what the run was doing at the last update; a crash leaves "running" behind without a held lock.
        epoch: epochs done.
        agent_step: agent steps done.
        total_timesteps: agent steps asked for.
        reward: mean reward of recent episodes; None before the first one ended.
        message: why it failed or stopped; None otherwise.
        updated: time of the update, ISO 8601 in UTC; filled in when written.
    """

    state: RunState
    epoch: int
    agent_step: int
    total_timesteps: int
    reward: float | None = None
    message: str | None = None
    updated: str = ""


def read_status(paths: RunPaths) -> RunStatus | None:
    """The last status of a run; None when it has none or the file is unreadable."""
    try:
        file = _StatusFile.model_validate_json(paths.status.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return RunStatus(**file.model_dump())


def write_status(paths: RunPaths, status: RunStatus) -> None:
    """Replace status.json in one step; the final states wait for the disk, "running" does not."""
    content = json.dumps(asdict(status) | {"updated": utc_now()}, indent=2, allow_nan=False) + "\n"
    with storage_errors("write", paths.status):
        replace_file(paths.status, content.encode(), durable=status.state != "running")


class _StatusFile(ConfigModel):
    state: RunState
    epoch: int
    agent_step: int
    total_timesteps: int
    reward: float | None
    message: str | None
    updated: str
