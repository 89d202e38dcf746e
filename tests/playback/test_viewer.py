"""The keys of the viewer, at a terminal made of lists."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from metta_train.playback.viewer import REMEMBERED_IMAGES, Tape, Viewer
from tests.fakes.scripted_source import ScriptedSource


class ScriptedTerminal:
    """Gives the keys of a script, one group for each time it is asked; time passes only then."""

    def __init__(self, script: Sequence[str | float]) -> None:
        self.script = [*script, "q"]
        self.now = 0.0
        self.screens: list[str] = []
        self.redraw = True

    def write(self, text: str) -> None:
        self.screens.append(re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text))

    def size(self) -> tuple[int, int]:
        return 80, 24

    def keys(self, seconds: float) -> list[str]:
        if isinstance(self.script[0], float):
            wait = min(seconds, self.script[0])
            self.now += wait
            self.script[0] -= wait
            if self.script[0] <= 1e-9:
                del self.script[0]
            return []
        return [str(self.script.pop(0))]


def watched(source: ScriptedSource, *script: str | float, last: int | None = None) -> tuple[ScriptedTerminal, Viewer]:
    terminal = ScriptedTerminal(script)
    viewer = Viewer(source, first=1, last=last, agent=0, unicode=True, colour=True)
    viewer.run(terminal, clock=lambda: terminal.now)  # pyright: ignore[reportArgumentType]
    return terminal, viewer


def steps(terminal: ScriptedTerminal) -> list[int]:
    return [int(found[1]) for screen in terminal.screens if (found := re.search(r"step (\d+) of", screen))]


def test_it_plays_at_its_speed_and_stops_at_the_end() -> None:
    terminal, _ = watched(ScriptedSource(steps=50), 1.05)
    assert steps(terminal)[-1] == 10, "10 steps per second"
    terminal, _ = watched(ScriptedSource(steps=50), "+", 1.01)
    assert 19 <= steps(terminal)[-1] <= 21
    terminal, _ = watched(ScriptedSource(steps=3), 2.0)
    assert steps(terminal)[-1] == 3 and "the end" in terminal.screens[-1]


def test_pause_step_and_back_play_nothing_twice() -> None:
    source = ScriptedSource(steps=9)
    terminal, _ = watched(source, "space", 1.0, "right", ".", "left", "left", "left", "right", 1.0)
    assert steps(terminal) == [0, 0, 1, 2, 1, 0, 1]
    assert source.played == 3, "steps back are remembered, not played again"


def test_home_and_end() -> None:
    terminal, _ = watched(ScriptedSource(steps=9), "space", "end", "home")
    assert steps(terminal) == [0, 0, 9, 0]


def test_agents_are_chosen_round_and_round() -> None:
    terminal, _ = watched(ScriptedSource(), "space", "tab", "down", "up")
    agents = [found[1] for screen in terminal.screens if (found := re.search(r"agent (\d+)  row", screen))]
    assert agents == ["0", "0", "1", "0", "1"]


def test_next_episode_again_and_the_last_one() -> None:
    source = ScriptedSource(steps=3)
    watched(source, "n", "r", 1.0, "space", "n")
    assert source.asked == [1, 2, 2, 3, 4], "at the end, space goes on to the next"
    source = ScriptedSource(steps=3)
    _, viewer = watched(source, "n", "n", "n", last=2)
    assert source.asked == [1, 2] and viewer.episode == 2


def test_help_is_left_by_any_key() -> None:
    terminal, _ = watched(ScriptedSource(), "space", "?", "x")
    assert ["this help" in screen for screen in terminal.screens] == [False, False, True, False]


def test_pictures_are_forgotten_before_they_fill_the_memory() -> None:
    tape = Tape(ScriptedSource(steps=300, image=True).moments(1))
    while tape.forward():
        pass
    back = 0
    while tape.back():
        back += 1
    assert (tape.now.step, back) == (300 - back, REMEMBERED_IMAGES - 1)


@pytest.mark.parametrize("key", ["q", "escape", "quit"])
def test_quitting(key: str) -> None:
    terminal, _ = watched(ScriptedSource(), "?", key) if key == "q" else watched(ScriptedSource(), key)
    assert terminal.screens
