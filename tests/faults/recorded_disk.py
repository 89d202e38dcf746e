"""Records in which order a run changes its folder, and what it has put on the disk for good.

Before every operation that matters the folder is compared to what was seen last, so nothing that happens in between
is missed, whoever does it. `python -m tests.faults.with_fault record:FOLDER ...` uses it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRACE = "trace.jsonl"


class Recorder:
    """Writes `out`/trace.jsonl, one operation per line, and `out`/<SHA-256> for each content of a file.

    The recorded folder is empty at first.
    """

    def __init__(self, out: Path, root: Path) -> None:
        self._out = out
        self._root = os.fspath(root)
        self._seen = self._walk()  # inode, size, time; None for a folder
        self._trace = (out / TRACE).open("w")
        self._busy = False

    def install(self) -> None:
        """From now on every operation is recorded."""
        for name in ("mkdir", "unlink", "remove", "rmdir"):
            setattr(os, name, self._watched(getattr(os, name)))
        for name in ("rename", "replace"):
            setattr(os, name, self._renaming(getattr(os, name)))
        io.open = self._watched(io.open)
        os.fsync = self._syncing(os.fsync)

    def tell(self, op: str, path: str | os.PathLike[str] = "", **more: str) -> None:
        """One line of the trace; the path is relative to the recorded folder."""
        relative = os.path.relpath(path, self._root) if path else ""
        self._trace.write(json.dumps({"op": op, "path": relative, **more}) + "\n")
        self._trace.flush()

    def look(self) -> None:
        """Record what has changed since the last look."""
        if self._busy:
            return
        self._busy = True
        try:
            found = self._walk()
            for path in sorted(self._seen.keys() - found.keys(), reverse=True):  # what is in a folder before it
                self.tell("remove", path)
            for path in sorted(found):
                before, now = self._seen.get(path), found[path]
                if path not in self._seen or (now is not None and before is not None and now[0] != before[0]):
                    if path in self._seen:
                        self.tell("remove", path)
                    self.tell("mkdir" if now is None else "create", path)
                    before = None
                if now is not None and now != before:
                    self.tell("write", path, content=self._keep(path))
            self._seen = found
        finally:
            self._busy = False

    def _walk(self) -> dict[str, tuple[int, int, int] | None]:
        found: dict[str, tuple[int, int, int] | None] = {}
        for folder, _, files in os.walk(self._root):
            found[folder] = None
            for name in files:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found

    def _keep(self, path: str) -> str:
        content = Path(path).read_bytes()
        name = hashlib.sha256(content).hexdigest()
        (self._out / name).write_bytes(content)
        return name

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.look()
            result = original(*arguments, **options)
            self.look()
            return result

        return operation

    def _renaming(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def rename(source: str, target: str) -> None:
            self.look()
            original(source, target)
            source, target = os.path.abspath(source), os.path.abspath(target)
            if source in self._seen:
                self.tell("rename", source, to=os.path.relpath(target, self._root))
                moved = {path: seen for path, seen in self._seen.items() if _inside(path, source)}
                kept = {path: seen for path, seen in self._seen.items() if not _inside(path, source)}
                self._seen = kept | {target + path.removeprefix(source): seen for path, seen in moved.items()}
            self.look()

        return rename

    def _syncing(self, original: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            self.look()
            original(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if _inside(path, self._root):
                folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
                self.tell("sync folder" if folder else "sync file", path)

        return sync


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)
