"""Memory shared with child processes that has no name: nothing to leak when a process is killed."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile


class SharedBlock:
    """Zeros at first. The file descriptor is handed to children; the memory lives until the last map is gone."""

    def __init__(self, num_bytes: int) -> None:
        size = max(num_bytes, 1)
        if sys.platform == "linux":
            self.descriptor = os.memfd_create("envs")
            os.ftruncate(self.descriptor, size)
        else:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                self.descriptor = os.dup(file.fileno())
        self.memory = mmap.mmap(self.descriptor, size)

    @staticmethod
    def open(descriptor: int) -> mmap.mmap:
        """In the child: the memory behind an inherited descriptor, which is closed."""
        memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        os.close(descriptor)
        return memory

    def close_descriptor(self) -> None:
        """In the parent, when all children hold their own; the map stays as long as an array needs it."""
        os.close(self.descriptor)
