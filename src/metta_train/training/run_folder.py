"""The folder of one run: its paths, its lock, and the small files that say what the run is and how it goes.

    <data_dir>/<run>/
        config.yaml         the composed configuration of the last start, without secrets
        invocations.jsonl   one line per start
        status.json         state, counters and reward, rewritten after epochs, at most twice a second
        run.lock            held for as long as a process trains this run
        metrics.jsonl  train.log  checkpoints/  replays/  wandb/

This module needs neither torch nor the disk to check a run name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import re
import secrets
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self, cast

import yaml
from pydantic import Field, ValidationError
from yaml.composer import ComposerError

from metta_train.reporting.redaction import redact_argv, redact_config
from metta_train.reporting.storage import make_folders, replace_file, storage_errors, unfinished_replacements
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.config_origin import SHIPPED, ConfigOrigin

MAX_NAME_PARTS = 3
MAX_CONFIG_BYTES = 4 << 20
RESUME_FIXED_KEYS = ("agent", "py_agent", "env")
# With another seed or optimizer the run would not be the one that these keys describe.
_FIXED_VALUES = ("seed", "trainer.optimizer.type")
# What may change though its group may not: it decides neither what the weights mean nor what they see.
_FREE_VALUES = frozenset(
    {
        *(f"env.{name}" for name in ("start_timeout", "step_timeout", "restart_budget")),
        *(f"{group}.{name}" for group in ("agent", "py_agent") for name in ("analyze_weights_interval", "clip_range")),
    }
)
_LISTED_CHANGES = 12  # another environment differs in a hundred keys
MAX_RUNS_OF_ONE_NAME = 10_000
SECOND_TRY = 0.05  # seconds until a lock that is held is tried again

_NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PACKAGES = ("metta-train", "torch", "mettagrid", "pufferlib-core", "numpy", "safetensors", "hydra-core", "wandb")
_ABSENT = "(absent)"

RunState = Literal["running", "done", "failed", "interrupted"]

logger = logging.getLogger(__name__)


class RunLockedError(Exception):
    """Another living process trains this run (exit code 4)."""


def validate_run_name(run: str) -> str:
    """Return `run` if it may name a run folder; touches no disk.

    A name has 1 to 3 parts divided by "/" (a multirun job is `<sweep>/<number>`); each part begins with a letter or
    digit, goes on with letters, digits, `.`, `_` or `-`, does not end with `.`, and has at most 128 characters.

    Raises:
        ValueError: otherwise.
    """
    parts = run.split("/")
    if len(parts) > MAX_NAME_PARTS:
        raise ValueError(f"run={run!r} has {len(parts)} parts; a run name has at most {MAX_NAME_PARTS}, divided by '/'")
    for part in parts:
        if not _NAME_PART.fullmatch(part) or part.endswith("."):
            raise ValueError(
                f"run={run!r} is not a valid run name: {part!r} must begin with a letter or digit, go on with letters, "
                "digits, '.', '_' or '-', not end with '.', and have at most 128 characters"
            )
    return run


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where things lie in a run folder; makes nothing."""

    run: str
    folder: Path

    @classmethod
    def locate(cls, data_dir: Path, run: str) -> RunPaths:
        """The paths of `run`, inside `data_dir` even after following links. Raises ValueError if it is not."""
        validate_run_name(run)
        root = data_dir.expanduser().resolve()
        folder = (root / run).resolve()
        if not folder.is_relative_to(root) or folder == root:
            raise ValueError(f"run={run!r} leads out of data_dir {root} through a link, to {folder}")
        return cls(run=run, folder=root / run)

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def invocations(self) -> Path:
        return self.folder / "invocations.jsonl"

    @property
    def status(self) -> Path:
        return self.folder / "status.json"

    @property
    def lock(self) -> Path:
        return self.folder / "run.lock"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def replays(self) -> Path:
        return self.folder / "replays"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"


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


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One key whose value differs between two configurations; "(absent)" where it has none."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def free_run_name(data_dir: Path, run: str) -> str:
    """`run`, or the first of `run-2`, `run-3`, ... that no run has.

    Raises:
        ValueError: the name may not name a run.
    """
    for number in range(1, MAX_RUNS_OF_ONE_NAME):
        name = run if number == 1 else f"{run}-{number}"
        folder = RunPaths.locate(data_dir, name).folder
        if not folder.is_dir() or not any(folder.iterdir()):
            return name
    raise ValueError(f"run={run!r}: there are {MAX_RUNS_OF_ONE_NAME} runs of this name; use another one")


class RunFolder:
    """A run folder that this process owns: the lock is held from `open` to `close`, and freed by any death."""

    def __init__(self, paths: RunPaths, lock_descriptor: int) -> None:
        self.paths = paths
        self._lock_descriptor: int | None = lock_descriptor

    @classmethod
    def open(cls, data_dir: Path, run: str) -> RunFolder:
        """Make the folder if needed and lock it.

        Raises:
            ValueError: bad run name, or one that lies inside another run.
            RunLockedError: another process holds it; the message names the holder.
            StorageError: the folder cannot be made or written.
        """
        paths = RunPaths.locate(data_dir, run)
        _refuse_nesting(paths)
        with storage_errors("make the run folder", paths.folder):
            make_folders(paths.folder)
        with storage_errors("lock the run folder", paths.folder):
            folder = cls(paths, _lock(paths))
        folder.remove_unfinished()
        return folder

    def remove_unfinished(self) -> None:
        """Clean up after a process that died while it replaced a file."""
        with storage_errors("clean up", self.paths.folder):
            for path in (self.paths.config, self.paths.status):
                for left in unfinished_replacements(path):
                    left.unlink()

    def clear(self) -> None:
        """Delete everything but the lock: the run starts from nothing."""
        with storage_errors("delete what is in", self.paths.folder):
            trash = self.paths.folder / f".trash-{secrets.token_hex(4)}"
            trash.mkdir()
            for path in list(self.paths.folder.iterdir()):
                if path not in (trash, self.paths.lock):
                    path.rename(trash / path.name)  # one step each: a death leaves no half of a checkpoint
            for left in self.paths.folder.glob(".trash-*"):
                shutil.rmtree(left)

    def close(self) -> None:
        """Free the lock; a second call does nothing."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def record_invocation(
        self, argv: Sequence[str], origin: ConfigOrigin = SHIPPED, resumed_from: Path | None = None
    ) -> None:
        """Append one line: when, where, from which checkpoint, arguments (secrets removed), files and versions."""
        line = {
            "time": _now(),
            "argv": redact_argv(argv),
            "resumed_from": None if resumed_from is None else resumed_from.name,
            "config_search_path": list(origin.search_path),
            "own_config_files": list(origin.own_files),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "versions": _package_versions(),
        }
        with storage_errors("write", self.paths.invocations), self.paths.invocations.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def adopt_config(self, config: Mapping[str, object], *, resuming: bool) -> tuple[ConfigChange, ...]:
        """Write `config` (plain values; secrets are removed) and return what differs from the one before.

        Args:
            config: the composed configuration.
            resuming: true when the run goes on from a checkpoint; keys that decide what the weights mean must then
                be unchanged.

        Raises:
            ValueError: such a key changed; nothing was written.
            StorageError: the disk refused.
        """
        new = redact_config(config)
        old = read_config(self.paths) if resuming else None
        changes = () if old is None else config_changes(old, new)
        check_config_changes(self.paths.run, changes)
        text = yaml.dump(new, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=120)
        with storage_errors("write", self.paths.config):
            replace_file(self.paths.config, text.encode())
        return changes

    def write_status(self, status: RunStatus) -> None:
        """Replace status.json in one step; the final states wait for the disk, "running" does not."""
        content = json.dumps(asdict(status) | {"updated": _now()}, indent=2, allow_nan=False) + "\n"
        with storage_errors("write", self.paths.status):
            replace_file(self.paths.status, content.encode(), durable=status.state != "running")


def read_status(paths: RunPaths) -> RunStatus | None:
    """The last status of a run; None when it has none or the file is unreadable."""
    try:
        file = _StatusFile.model_validate_json(paths.status.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return RunStatus(**file.model_dump())


def read_config(paths: RunPaths) -> dict[str, object] | None:
    """The saved configuration as plain data: nothing in it is resolved or instantiated. None when there is none.

    Raises:
        ValueError: the file is not a YAML mapping of plain values.
        StorageError: it cannot be read.
    """
    with storage_errors("read", paths.config):
        try:
            if paths.config.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"{paths.config} is larger than {MAX_CONFIG_BYTES} bytes; it is not a saved config")
            text = paths.config.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
    try:
        config = _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(f"{paths.config} is not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{paths.config} holds no mapping; restore it, or use another run name")
    return cast("dict[str, object]", config)


def config_changes(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[ConfigChange, ...]:
    """The dotted keys whose values differ, sorted. Lists are compared as a whole; 1 and 1.0 are equal."""
    old_values, new_values = dict(_flatten(old)), dict(_flatten(new))
    keys = sorted(old_values.keys() | new_values.keys())
    return tuple(
        ConfigChange(key, _shown(old_values, key), _shown(new_values, key))
        for key in keys
        if key not in old_values or key not in new_values or not _equal(old_values[key], new_values[key])
    )


def check_config_changes(run: str, changes: Sequence[ConfigChange]) -> None:
    """Refuse changes under which saved weights would mean something else: agent, py_agent and env.

    A change of kind, from a whole `agent` to a whole `py_agent` or back, passes: both may be the same network, which
    `training/parity/same_network.py` finds out when the run goes on.

    Raises:
        ValueError: with one line per refused change.
    """
    fixed = ("env",) if _changes_kind_of_agent(changes) else RESUME_FIXED_KEYS
    refused = [
        change
        for change in changes
        if change.key in _FIXED_VALUES or (change.key.split(".")[0] in fixed and change.key not in _FREE_VALUES)
    ]
    if refused:
        listed = "".join(f"\n  {change}" for change in refused[:_LISTED_CHANGES])
        if len(refused) > _LISTED_CHANGES:
            listed += f"\n  and {len(refused) - _LISTED_CHANGES} more"
        raise ValueError(
            f"run={run!r} cannot go on with other values of these keys:{listed}\n"
            "Give the old values to continue that run. To start afresh: another run name, restart=new, "
            "or restart=overwrite, which deletes what is there."
        )


def _changes_kind_of_agent(changes: Sequence[ConfigChange]) -> bool:
    groups = {
        name: [change for change in changes if change.key.split(".")[0] == name] for name in ("agent", "py_agent")
    }
    return any(
        all(change.new == _ABSENT for change in groups[before])
        and all(change.old == _ABSENT for change in groups[after])
        for before, after in (("agent", "py_agent"), ("py_agent", "agent"))
        if groups[before] and groups[after]
    )


# ----- lock


def _refuse_nesting(paths: RunPaths) -> None:
    parents = list(paths.folder.parents)[: paths.run.count("/")]
    for parent in parents:
        if (parent / "run.lock").exists():
            raise ValueError(f"run={paths.run!r} lies inside another run, {parent.name!r}; use another name")


def _lock(paths: RunPaths) -> int:
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        _flock(descriptor)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise RunLockedError(
            f"run={paths.run!r} is being trained by another process ({holder}); "
            "wait for it, stop it, or use another run name"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            os.close(descriptor)
            raise
        logger.warning("the file system of %s has no locks: nothing stops a second process from using it", paths.folder)
    content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _now()}) + "\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content.encode(), 0)
    return descriptor


def _flock(descriptor: int) -> None:
    """Take the lock. One more try: `metta-runs` asks who holds it by taking it itself, for some microseconds."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(SECOND_TRY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    try:
        holder = _HolderFile.model_validate_json(os.pread(descriptor, 4096, 0))
    except ValidationError:  # the holder has the lock and has not written its name yet
        return "holder unknown"
    return f"pid {holder.pid} on {holder.host}, started {holder.started}"


# ----- files


class _HolderFile(ConfigModel):
    host: Annotated[str, Field(max_length=255)]
    pid: int
    started: Annotated[str, Field(max_length=64)]


class _StatusFile(ConfigModel):
    state: Literal["running", "done", "failed", "interrupted"]
    epoch: int
    agent_step: int
    total_timesteps: int
    reward: float | None
    message: str | None
    updated: str


class _PlainLoader(yaml.SafeLoader):
    """Plain values only, and no aliases: a few lines of nested aliases can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, "aliases are not allowed here", event.start_mark)
        return super().compose_node(parent, index)  # pyright: ignore[reportArgumentType]  # the stub says int


class _PlainDumper(yaml.SafeDumper):
    """Writes a value again where it appears again, instead of an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _flatten(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    values: list[tuple[str, object]] = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            values.extend(_flatten(cast("Mapping[str, object]", value), f"{name}."))
        else:
            values.append((name, value))
    return values


def _equal(old: object, new: object) -> bool:
    if isinstance(old, bool) != isinstance(new, bool):
        return False
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(_equal(a, b) for a, b in zip(old, new, strict=True))
    return old == new


def _shown(values: Mapping[str, object], key: str) -> str:
    return json.dumps(values[key], default=str) if key in values else _ABSENT


def _package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
