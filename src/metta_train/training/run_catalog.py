"""Runs on the disk: which there are, how each of them stands, and the one that a name means. Needs no torch."""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from metta_train.reporting.curves import curve, last_epochs, mean_rate, recent_rate, sampled_epochs
from metta_train.reporting.metric_names import REWARD
from metta_train.reporting.storage import StorageError, storage_errors
from metta_train.specs.config_errors import ConfigError, nearest_choice
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.run_summary import CheckpointInfo, RunCondition, RunSummary
from metta_train.training.checkpoint_listing import (
    LATEST,
    count_checkpoints,
    list_checkpoints,
    newest_checkpoint,
    select_checkpoint,
)
from metta_train.training.config_changes import config_changes
from metta_train.training.run_lock import RunLockedError
from metta_train.training.run_paths import MAX_NAME_PARTS, RunPaths
from metta_train.training.run_status import RunStatus, read_status
from metta_train.training.saved_config import read_config

CURVE_POINTS = 24
# Where a run lies and how it is told of; everything else decides what is learned.
NOT_A_SETTING = ("run", "data_dir", "seed", "wandb", "objective", "tensorboard")

_MARKS = ("status.json", "run.lock", "config.yaml")  # a folder with one of these is a run
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class RunReference:
    """`NAME` or `NAME:selector`, as given on a command line."""

    paths: RunPaths
    selector: str | None

    def checkpoint(self) -> CheckpointInfo:
        """The checkpoint that is meant; the latest when none is named. Raises as `select_checkpoint`."""
        saved = list_checkpoints(self.paths.checkpoints)
        return select_checkpoint(self.paths.run, saved, LATEST if self.selector is None else self.selector)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One start of a run."""

    argv: tuple[str, ...]  # program and arguments, without secrets
    versions: Mapping[str, str]  # by package


class _InvocationLine(ConfigModel):
    model_config = ConfigDict(extra="ignore")

    argv: list[str]
    versions: dict[str, str]


def find_runs(data_dir: Path) -> tuple[RunPaths, ...]:
    """All runs of a folder, jobs of sweeps included, by name. A folder that does not exist has none."""
    return tuple(sorted(_runs_below(data_dir, ""), key=lambda paths: _natural(paths.run)))


def find_run(data_dir: Path, name: str) -> RunPaths:
    """The run of this name.

    Raises:
        ConfigError: there is none; with the nearest name, or the jobs if it is a sweep.
    """
    if ":" in name:
        raise ConfigError(f"{name}: a run is meant here, not one of its checkpoints; use {name.partition(':')[0]}")
    try:
        paths = RunPaths.locate(data_dir, name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if _is_run(paths.folder):
        return paths
    known = [found.run for found in find_runs(data_dir)]
    jobs = [run for run in known if run.startswith(f"{name}/")]
    if jobs:
        listed = ", ".join(jobs[:3]) + (", ..." if len(jobs) > 3 else "")
        raise ConfigError(f"{name} is a folder of {len(jobs)} runs: name one of {listed}, or all: '{name}/*'")
    hint = nearest_choice(name, known) or ("; metta-runs lists them" if known else "; there are no runs")
    raise ConfigError(f"no run {name!r} in {data_dir}{hint}")


def find_matching(data_dir: Path, names: Sequence[str]) -> tuple[RunPaths, ...]:
    """Runs by name or pattern (`sweep/*`), each once, in the order given. Raises as `find_run`."""
    found: dict[str, RunPaths] = {}
    for name in names:
        if not _GLOB & set(name):
            found.setdefault(name, find_run(data_dir, name))
            continue
        runs = find_runs(data_dir)
        matching = [paths for paths in runs if fnmatch.fnmatchcase(paths.run, name)]
        if not matching:
            raise ConfigError(f"{name}: none of the {len(runs)} runs in {data_dir} has such a name")
        for paths in matching:
            found.setdefault(paths.run, paths)
    return tuple(found.values())


def find_reference(data_dir: Path, text: str) -> RunReference:
    """`NAME`, `NAME:latest`, `NAME:best` or `NAME:<agent step>`. Raises as `find_run`."""
    name, colon, selector = text.partition(":")
    return RunReference(find_run(data_dir, name), selector if colon else None)


def find_references(data_dir: Path, texts: Sequence[str]) -> tuple[RunReference, ...]:
    """References by name or pattern (`sweep/*:best`), each once, in the order given. Raises as `find_run`."""
    found: dict[RunReference, None] = {}
    for text in texts:
        name, colon, selector = text.partition(":")
        for paths in find_matching(data_dir, [name]):
            found.setdefault(RunReference(paths, selector if colon else None))
    return tuple(found)


def summarize(paths: RunPaths, now: float | None = None) -> RunSummary:
    """How a run stands; reads a bounded part of its files. `now` is in seconds since 1970."""
    now = time.time() if now is None else now
    with storage_errors("read the run in", paths.folder):
        status = read_status(paths)
        newest = newest_checkpoint(paths.checkpoints)
        rewards = curve(sampled_epochs(paths.metrics, CURVE_POINTS), REWARD)
        condition, last = _condition(paths, status), last_epochs(paths.metrics)
        return RunSummary(
            name=paths.run,
            folder=paths.folder,
            condition=condition,
            epoch=0 if status is None else status.epoch,
            agent_step=0 if status is None else status.agent_step,
            total_timesteps=0 if status is None else status.total_timesteps,
            reward=None if status is None else status.reward,
            steps_per_second=recent_rate(last) if condition == "running" else mean_rate(last),
            age=max(0.0, now - _last_sign(paths, status)),
            checkpoints=count_checkpoints(paths.checkpoints),
            agent="" if newest is None else newest.agent,
            environment="" if newest is None else newest.environment,
            message=None if status is None else status.message,
            rewards=tuple(float(reward) for reward in rewards.y),
        )


def is_locked(paths: RunPaths) -> bool:
    """Whether a process trains this run now. False where the file system has no locks."""
    try:
        with _lock(paths, fcntl.LOCK_SH):
            return False
    except RunLockedError:
        return True


def read_run_config(paths: RunPaths) -> dict[str, object]:
    """The configuration of the last start, as plain data.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        config = read_config(paths)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config is None:
        raise ConfigError(f"run {paths.run!r} has no {paths.config.name}")
    return config


def read_invocations(paths: RunPaths) -> tuple[Invocation, ...]:
    """All starts of a run; lines that cannot be read are left out."""
    with storage_errors("read", paths.invocations):
        try:
            lines = paths.invocations.read_bytes().splitlines()
        except FileNotFoundError:
            return ()
    found = []
    for line in lines:
        with suppress(ValidationError):
            told = _InvocationLine.model_validate_json(line)
            found.append(Invocation(tuple(told.argv), told.versions))
    return tuple(found)


def remove_run(paths: RunPaths) -> None:
    """Delete the folder of a run. Links in it are removed, never followed.

    Raises:
        RunLockedError: a process trains it.
        StorageError: the disk refused.
    """
    with storage_errors("remove", paths.folder), _lock(paths, fcntl.LOCK_EX):
        shutil.rmtree(paths.folder)


def same_settings(runs: Mapping[str, Mapping[str, object]]) -> list[tuple[str, ...]]:
    """Runs grouped by their settings: those of one group differ by their seed alone.

    Args:
        runs: configuration by name of the run.

    Returns:
        Names, in the order of `runs`.
    """
    groups: dict[str, list[str]] = {}
    for name, config in runs.items():
        groups.setdefault(json.dumps(_settings(config), sort_keys=True, default=str), []).append(name)
    return [tuple(names) for names in groups.values()]


def setting_label(config: Mapping[str, object], others: Sequence[Mapping[str, object]]) -> str:
    """What sets a configuration apart from others: `learning_rate=0.001`; empty when nothing does."""
    differing: dict[str, str] = {}
    for other in others:
        for change in config_changes(_settings(other), _settings(config)):
            differing[change.key] = change.new
    return ", ".join(f"{key.rpartition('.')[2]}={value.strip(chr(34))}" for key, value in differing.items())


def _settings(config: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if key not in NOT_A_SETTING}


def _runs_below(data_dir: Path, prefix: str) -> Iterator[RunPaths]:
    with storage_errors("list", data_dir / prefix):
        try:
            names = sorted(entry.name for entry in os.scandir(data_dir / prefix) if entry.is_dir())
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise ConfigError(f"--data-dir {data_dir}: not a folder") from None
    for name in names:
        try:
            paths = RunPaths.locate(data_dir, f"{prefix}{name}")
        except ValueError:
            continue  # no name of a run, or a link that leads out
        if _is_run(paths.folder):
            yield paths
        elif paths.run.count("/") + 1 < MAX_NAME_PARTS:
            with suppress(StorageError):  # a folder that is closed to us
                yield from _runs_below(data_dir, f"{paths.run}/")


def _is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in _MARKS)


def _natural(name: str) -> list[tuple[int, str]]:
    """So that job 10 comes after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split("/")]


def _condition(paths: RunPaths, status: RunStatus | None) -> RunCondition:
    if is_locked(paths):
        return "running"
    if status is None or status.state == "running":
        return "crashed"  # it left no word of its end
    return status.state


def _last_sign(paths: RunPaths, status: RunStatus | None) -> float:
    if status is not None:
        with suppress(ValueError):
            return datetime.fromisoformat(status.updated).timestamp()
    return max((paths.folder / mark).stat().st_mtime for mark in _MARKS if (paths.folder / mark).exists())


@contextmanager
def _lock(paths: RunPaths, operation: int) -> Iterator[None]:
    """The lock of a run, without waiting and without making the file."""
    try:
        access = os.O_RDWR if operation == fcntl.LOCK_EX else os.O_RDONLY  # NFS demands it
        descriptor = os.open(paths.lock, access | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # never trained by this version
        return
    try:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLockedError(f"run {paths.run!r} is being trained by a process; stop it first") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)
