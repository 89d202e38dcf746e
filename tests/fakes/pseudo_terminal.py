"""Programs on a terminal that tests can read and type on."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
import time
import warnings
from types import TracebackType

from tests.cli.command import REPOSITORY


class Child:
    """A program on a pseudo-terminal."""

    def __init__(self, *command: str, **environ: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "TERM": "xterm", **environ}
        with warnings.catch_warnings():
            # Python 3.12 warns of other threads, a test process of xdist has one; the child does nothing but this.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid, self.master = pty.fork()
            if self.pid == 0:  # pragma: no cover  # the child
                os.execve(sys.executable, [sys.executable, *command], environment)
        self.text = ""
        self._ended = False

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A program that a failing test leaves behind would work on for hours."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)

    def read_until(self, wanted: str, seconds: float = 100.0) -> None:
        end = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < end, f"no {wanted!r} in {self.text!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the child is gone
                    break

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def cooked(self) -> bool:
        return bool(termios.tcgetattr(self.master)[3] & termios.ICANON)

    def wait(self) -> int:
        end = time.monotonic() + 100
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended = True
                self._read_rest()
                return os.waitstatus_to_exitcode(status)
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode(errors="replace")
                except OSError:
                    continue
        raise AssertionError("the child does not end")

    def _read_rest(self) -> None:
        """What the child wrote just before its end."""
        while select.select([self.master], [], [], 0.0)[0]:
            try:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                return
