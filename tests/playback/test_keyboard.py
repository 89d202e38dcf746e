"""Keys, and a terminal that is put back: on a real pseudo-terminal, in a process of its own."""

from __future__ import annotations

import os
import signal

import pytest

from metta_train.playback.keyboard import ENTER, LEAVE, split_keys
from tests.fakes.pseudo_terminal import Child

PROGRAM = """
import time
from metta_train.playback.keyboard import terminal_taken
with terminal_taken() as terminal:
    terminal.write("ready")
    while True:
        for key in terminal.keys(0.05):
            terminal.write(f"<{key}>")
            if key == "x":
                raise RuntimeError("broken")
            if key in ("q", "quit"):
                raise SystemExit(0)
"""


def test_sequences_of_keys_are_taken_apart() -> None:
    assert split_keys("\x1b[A\x1b[B\x1bOCq \t\x1b[Z\x1b") == [
        "up", "down", "right", "q", "space", "tab", "back-tab", "escape",
    ]  # fmt: skip
    assert split_keys("\x1b[200~a\x1b[1;5C") == ["a"], "unknown ones are left out"


@pytest.mark.parametrize(
    ("how", "code"),
    [("q", 0), ("x", 1), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -2), ("\x03", -2)],
)
def test_the_terminal_is_put_back_however_it_ends(how: str | signal.Signals, code: int) -> None:
    with Child("-c", PROGRAM) as child:
        child.read_until("ready")
        assert not child.cooked() and ENTER in child.text
        if isinstance(how, str):
            child.press(how)
        else:
            os.kill(child.pid, how)
        child.read_until(LEAVE)
        assert child.wait() == code
        assert LEAVE in child.text and child.cooked()


def test_it_can_be_stopped_and_continued() -> None:
    with Child("-c", PROGRAM) as child:
        child.read_until("ready")
        child.press("\x1a")  # ^Z
        child.read_until(LEAVE)
        assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1]) and child.cooked()
        child.text = ""
        os.kill(child.pid, signal.SIGCONT)
        child.read_until(ENTER)
        child.press("\x1b[Aq")
        assert child.wait() == 0
        assert "<up>" in child.text and not child.text.rstrip().endswith(ENTER) and child.cooked()
