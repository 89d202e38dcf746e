"""Compiled kernels on disk, for several processes that compile at the same moment."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile


class KernelCache(FunctionCache):
    """Numba's own, whose users take turns.

    Numba numbers the files of a kernel, one for each kind of arguments, and keeps the numbers in an index that it
    reads, extends and writes. Two processes that do so at once, as the first jobs of a sweep may, could give one number
    to two kinds, and every later process would be handed code for other arguments than its own.

    Numba compiles a kernel anew when its file has changed. Here it does when any file beside it has, because kernels
    take functions from there.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = _stamp_of_folder(Path(function.__code__.co_filename).parent)
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:  # noqa: ANN401  # Numba has no types
        target_context.refresh()  # which takes a moment when it is the first, and is nobody else's business
        with self._turn():
            return super().load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:  # noqa: ANN401
        with self._turn():
            super().save_overload(sig, data)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        descriptor = None
        try:
            with suppress(OSError):  # without a folder, or on a file system that has no locks, as without this class
                descriptor = os.open(self.cache_path, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _stamp_of_folder(folder: Path) -> tuple[tuple[str, float, int], ...]:
    """Name, time and size of every Python file in it; nothing if they cannot be read, as in an archive."""
    try:
        found = [(path.name, path.stat()) for path in sorted(folder.glob("*.py"))]
    except OSError:
        return ()
    return tuple((name, status.st_mtime, status.st_size) for name, status in found)
