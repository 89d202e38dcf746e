"""Keys without waiting for them, and a terminal that is put back whatever happens."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # a screen of its own, no cursor, no wrapping
LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
ESCAPE = "\x1b"
USUAL_SIZE = 80, 24
_TERMINATED = 128
_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x1b[Z": "back-tab",
}
_NAMES = {" ": "space", "\t": "tab", "\r": "enter", "\n": "enter", ESCAPE: "escape", "\x03": "interrupt"}


class Terminal:
    """The user's terminal while a program draws on all of it."""

    def __init__(self, keys: int, screen: int) -> None:
        self._keys = keys
        self._screen = screen
        self._before = termios.tcgetattr(keys)
        self._open = True  # for keys; at the end of the input there are none any more
        self.redraw = False  # the screen was lost: everything has to be drawn again

    def enter(self) -> None:
        """Take the screen and the keys."""
        tty.setcbreak(self._keys)
        self.write(ENTER)
        self.redraw = True

    def leave(self) -> None:
        """Give them back as they were found."""
        try:
            self.write(LEAVE)
        finally:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def write(self, text: str) -> None:
        """All of it, at once."""
        data = text.encode(sys.stdout.encoding or "utf-8", errors="replace")
        while data:
            data = data[os.write(self._screen, data) :]

    def size(self) -> tuple[int, int]:
        """Columns and lines, now; the usual ones where the terminal does not know them."""
        size = os.get_terminal_size(self._screen)
        return size.columns or USUAL_SIZE[0], size.lines or USUAL_SIZE[1]

    def keys(self, seconds: float) -> list[str]:
        """The keys that were pressed; waits at most `seconds` for the first. `quit` when there can be none any more."""
        if not self._open:
            return ["quit"]
        ready, _, _ = select.select([self._keys], [], [], max(0.0, seconds))
        if not ready:
            return []
        data = os.read(self._keys, 1024)
        if not data:  # hung up
            self._open = False
            return ["quit"]
        return split_keys(data.decode("utf-8", errors="replace"))


def split_keys(text: str) -> list[str]:
    """Names of keys in what a terminal sent; unknown sequences are left out."""
    found: list[str] = []
    while text:
        if text[0] == ESCAPE and len(text) > 1 and text[1] in "[O":
            end = 2
            while end < len(text) and not (text[end].isalpha() or text[end] == "~"):
                end += 1
            sequence, text = text[: end + 1], text[end + 1 :]
            if sequence in _SEQUENCES:
                found.append(_SEQUENCES[sequence])
            continue
        found.append(_NAMES.get(text[0], text[0]))
        text = text[1:]
    return found


@contextmanager
def terminal_taken() -> Iterator[Terminal]:
    """The terminal of this process for a while; it is given back at an error, at SIGTERM and SIGHUP, and at ^Z."""
    terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno())

    def terminated(number: int, _: FrameType | None) -> None:
        raise SystemExit(_TERMINATED + number)

    def stopped(_: int, __: FrameType | None) -> None:
        terminal.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        terminal.enter()  # the user is back

    handlers = {signal.SIGTERM: terminated, signal.SIGHUP: terminated, signal.SIGTSTP: stopped}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        terminal.enter()
        yield terminal
    finally:
        try:
            terminal.leave()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
