"""One run, one process: a lock that names its holder and that any death frees."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from typing import Annotated

from pydantic import Field, ValidationError

from metta_train.specs.config_model import ConfigModel
from metta_train.training.run_paths import RunPaths
from metta_train.training.timestamps import utc_now

SECOND_TRY = 0.05  # seconds until a lock that is held is tried again

logger = logging.getLogger(__name__)


class RunLockedError(Exception):
    """Another living process trains this run (exit code 4)."""


def refuse_nesting(paths: RunPaths) -> None:
    """Raises ValueError for a run that lies inside another one."""
    parents = list(paths.folder.parents)[: paths.run.count("/")]
    for parent in parents:
        if (parent / "run.lock").exists():
            raise ValueError(f"run={paths.run!r} lies inside another run, {parent.name!r}; use another name")


def take_lock(paths: RunPaths) -> int:
    """Lock the run's folder, which exists, and write who did; gives back the descriptor that holds the lock.

    Raises:
        RunLockedError: another process holds it; the message names the holder.
        OSError: the lock file cannot be opened or written.
    """
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
    content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": utc_now()}) + "\n"
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


class _HolderFile(ConfigModel):
    host: Annotated[str, Field(max_length=255)]
    pid: int
    started: Annotated[str, Field(max_length=64)]
