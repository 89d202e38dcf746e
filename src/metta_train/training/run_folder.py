"""The folder of one run.

    <data_dir>/<run>/
        config.yaml         the composed configuration of the last start, without secrets
        invocations.jsonl   one line per start
        status.json         state, counters and reward, rewritten after epochs, at most twice a second
        run.lock            held for as long as a process trains this run
        metrics.jsonl  train.log  checkpoints/  replays/  wandb/

`run_paths.py` says where things lie, for those who do not own the folder too.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

from metta_train.reporting.redaction import redact_argv, redact_config
from metta_train.reporting.storage import make_folders, storage_errors, unfinished_replacements
from metta_train.specs.config_origin import SHIPPED, ConfigOrigin
from metta_train.training.config_changes import ConfigChange, check_config_changes, config_changes
from metta_train.training.run_lock import refuse_nesting, take_lock
from metta_train.training.run_paths import RunPaths
from metta_train.training.run_status import RunStatus, write_status
from metta_train.training.saved_config import read_config, write_config
from metta_train.training.timestamps import utc_now

_PACKAGES = ("metta-train", "torch", "mettagrid", "pufferlib-core", "numpy", "safetensors", "hydra-core", "wandb")


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
        refuse_nesting(paths)
        with storage_errors("make the run folder", paths.folder):
            make_folders(paths.folder)
        with storage_errors("lock the run folder", paths.folder):
            folder = cls(paths, take_lock(paths))
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
            "time": utc_now(),
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
        write_config(self.paths, new)
        return changes

    def write_status(self, status: RunStatus) -> None:
        """See `run_status.write_status`."""
        write_status(self.paths, status)


def _package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
