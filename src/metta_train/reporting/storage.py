"""Writing files so that a crash or a full disk leaves either the old or the new content, whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and start the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and start the same command again",
    errno.EACCES: "permission denied; use a data_dir that you may write to",
    errno.EPERM: "permission denied; use a data_dir that you may write to",
    errno.EROFS: "the file system is read-only; use a data_dir that you may write to",
}


class StorageError(OSError):
    """The disk refused: full, read-only, not permitted, or broken. The command line exits with 5."""


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn every OSError of the block into one StorageError that says what was tried, where and what to do."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or type(error).__name__)
        raise StorageError(f"could not {action} {path}: {advice}") from error


def write_durably(path: Path, content: bytes) -> None:
    """Create `path` (it must not exist) and return when its content is on the disk. The mode follows the umask."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folders(path: Path) -> None:
    """Make a folder and those above it where they are missing, and return when the disk has them."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Put a file that others append to on the disk, and its name."""
    with storage_errors("write", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Put the folder's entries (new names, renames) on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfinished_replacements(path: Path) -> list[Path]:
    """What processes left behind that died inside `replace_file`; also what a living one is writing right now."""
    return sorted(path.parent.glob(f".{path.name}.*.tmp"))


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Give `path` new content in one step: a reader sees the old content or the new one.

    Args:
        path: the file; created when missing.
        content: all of it.
        durable: wait until the disk has it. False is for files that are rewritten all the time and may be some
            seconds old after a power cut.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)
