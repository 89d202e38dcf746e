"""What is in a folder of checkpoints, by their small files; for tables and for finding one, without importing torch.

Before a checkpoint is used, `training/checkpoint_files.py` hashes every byte of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.run_summary import CheckpointInfo

LATEST, BEST = "latest", "best"
BY_REWARD = "reward"  # a score that is no evaluation's, but the reward while training

_FOLDER = re.compile(r"step-(\d{12})(\.corrupt-\d+)?")
_MANIFEST, _STATE = "manifest.json", "state.json"
_MAX_STATE_BYTES = 64 << 20


class CheckpointNotFoundError(ConfigError):
    """The run has no such checkpoint (exit code 3)."""


def count_checkpoints(folder: Path) -> int:
    """How many complete checkpoints there are."""
    return sum(not suffix for _, suffix in _folders(folder))


def list_checkpoints(folder: Path, *, set_aside: bool = False) -> tuple[CheckpointInfo, ...]:
    """Complete checkpoints, fewest agent steps first; also those set aside as damaged, if asked for."""
    return tuple(_info(path, aside) for path, aside in _folders(folder) if set_aside or not aside)


def newest_checkpoint(folder: Path) -> CheckpointInfo | None:
    """The one with the most agent steps."""
    paths = [path for path, aside in _folders(folder) if not aside]
    return _info(paths[-1], "") if paths else None


class Scored(Protocol):
    """What decides which checkpoint is the best."""

    @property
    def agent_step(self) -> int: ...

    @property
    def score(self) -> float | None: ...

    @property
    def scored_by(self) -> str: ...


ScoredT = TypeVar("ScoredT", bound=Scored)


def by_score(saved: Iterable[ScoredT]) -> tuple[ScoredT, ...]:
    """Those whose scores can be compared with the newest one, worst first; of equals the newer one is better.

    An evaluation counts for more than rewards while training, and scores of another suite are another measure.
    """
    scored = sorted((one for one in saved if one.score is not None), key=lambda one: one.agent_step)
    evaluated = [one for one in scored if one.scored_by != BY_REWARD]
    measures = [one.scored_by for one in evaluated or scored]
    return tuple(sorted((one for one in scored if one.scored_by == measures[-1]), key=lambda one: one.score or 0.0))


def best_checkpoint(saved: Sequence[CheckpointInfo]) -> CheckpointInfo | None:
    """The one with the highest score, of equals the newest; None when none has a score."""
    compared = by_score(saved)
    return compared[-1] if compared else None


def select_checkpoint(run: str, saved: Sequence[CheckpointInfo], selector: str) -> CheckpointInfo:
    """The one that `RUN:selector` names: `latest`, `best`, or an agent step.

    Raises:
        ConfigError: the selector is none of those.
        CheckpointNotFoundError: there is no such checkpoint; the message names those that there are.
    """
    step = selector.replace(",", "").replace("_", "")
    if selector not in (LATEST, BEST) and not (step.isascii() and step.isdigit()):
        raise ConfigError(f"{run}:{selector}: needs {run}:latest, {run}:best or {run}:<agent step>")
    if not saved:
        raise CheckpointNotFoundError(f"run {run!r} has no checkpoint yet")
    if selector == LATEST:
        return saved[-1]
    if selector == BEST:
        best = best_checkpoint(saved)
        if best is None:
            raise CheckpointNotFoundError(f"{run}:best: no checkpoint of this run has a score; use {run}:latest")
        return best
    for info in saved:
        if info.agent_step == int(step):
            return info
    nearest = min(saved, key=lambda info: abs(info.agent_step - int(step)))
    raise CheckpointNotFoundError(
        f"{run}:{selector}: the run has no checkpoint of that step; the nearest is {run}:{nearest.agent_step}"
    )


class _ProgressFile(ConfigModel):
    model_config = ConfigDict(extra="ignore")

    epoch: Annotated[int, Field(ge=0)]


class _StateFile(ConfigModel):
    """The fields that a table shows; `training/checkpoint_files.py` owns the whole file."""

    model_config = ConfigDict(extra="ignore")

    progress: _ProgressFile
    agent: str
    environment: str
    metadata: dict[str, JsonValue]


def _folders(folder: Path) -> list[tuple[Path, str]]:
    """Checkpoint folders by agent step, each with the suffix that sets it aside, or an empty one."""
    found: list[tuple[str, Path, str]] = []
    with storage_errors("list", folder):
        if not folder.is_dir():
            return []
        for path in folder.iterdir():
            match = _FOLDER.fullmatch(path.name)
            if match and path.is_dir() and not path.is_symlink() and (path / _MANIFEST).exists():
                found.append((match[1], path, match[2] or ""))
    return [(path, suffix) for _, path, suffix in sorted(found)]


def _info(path: Path, aside: str) -> CheckpointInfo:
    with storage_errors("read the checkpoint", path):
        files = [file.lstat() for file in path.iterdir()]
        info = CheckpointInfo(
            name=path.name,
            path=path,
            agent_step=int(path.name[5:17]),
            size=sum(file.st_size for file in files),
            modified=path.stat().st_mtime,
        )
        state = _read_state(path / _STATE)
    problem = "set aside as damaged" if aside else None
    if state is None:
        return replace(info, problem=problem or f"{_STATE} is missing or damaged")
    score, scored_by = state.metadata.get("score"), state.metadata.get("scored_by")
    return replace(
        info,
        problem=problem,
        epoch=state.progress.epoch,
        score=float(score) if isinstance(score, (int, float)) and not isinstance(score, bool) else None,
        scored_by=scored_by if isinstance(scored_by, str) else BY_REWARD,
        agent=state.agent,
        environment=state.environment,
    )


def _read_state(file: Path) -> _StateFile | None:
    try:
        if file.is_symlink() or file.stat().st_size > _MAX_STATE_BYTES:
            return None
        return _StateFile.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
