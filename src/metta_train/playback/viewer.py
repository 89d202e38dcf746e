"""Watch episodes on a terminal: play, pause, step, choose agents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metta_train.playback.keyboard import Terminal as TakenTerminal
from metta_train.playback.moments import Moment, Source
from metta_train.playback.screen import Terminal, View, draw

SPEEDS = (1, 2, 5, 10, 20, 50, 100)  # steps per second
FIRST_SPEED = 3
REMEMBERED = 5000  # moments to step back to
REMEMBERED_IMAGES = 100  # of environments that draw their own; one takes a megabyte
FRAME = 1 / 30  # seconds
IDLE = 0.25  # between looks at the size of the terminal
_HOME = "\x1b[H"
_TO_LINE_END = "\x1b[K"


class Tape:
    """An episode that is played as far as it is watched; earlier moments are remembered."""

    def __init__(self, moments: Iterator[Moment], limit: int = REMEMBERED) -> None:
        self._coming = moments
        self._limit = limit
        self._played: list[Moment] = [next(moments)]
        self._at = 0

    @property
    def now(self) -> Moment:
        return self._played[self._at]

    def forward(self) -> bool:
        """One step on; False at the end."""
        if self._at + 1 == len(self._played):
            coming = next(self._coming, None)
            if coming is None:
                return False
            self._played.append(coming)
            limit = min(self._limit, REMEMBERED_IMAGES) if coming.image is not None else self._limit
            del self._played[:-limit]
            self._at = len(self._played) - 1
        else:
            self._at += 1
        return True

    def back(self) -> bool:
        """One step back; False where nothing earlier is remembered."""
        if self._at == 0:
            return False
        self._at -= 1
        return True

    def rewind(self) -> None:
        """To the earliest moment that is remembered."""
        self._at = 0


@dataclass(slots=True)
class _Standing:
    """What the user has chosen."""

    episode: int
    agent: int
    playing: bool = True
    speed: int = FIRST_SPEED
    agent_view: bool = False
    help: bool = False
    quit: bool = False


class Viewer:
    """One session at a terminal.

    Args:
        source: what is watched.
        first: number of the first episode.
        agent: the first agent to be told of.
        last: number of the last episode; None for no end.
        unicode: whether the terminal shows more than ASCII.
        colour: whether it shall have colours.
    """

    def __init__(
        self,
        source: Source,
        *,
        first: int,
        agent: int,
        last: int | None,
        unicode: bool,
        colour: bool,
    ) -> None:
        self._source = source
        self._last = last
        self._unicode = unicode
        self._colour = colour
        self._standing = _Standing(first, agent)
        self._tape = Tape(source.moments(first))

    def run(self, terminal: TakenTerminal, clock: Callable[[], float] = time.monotonic) -> Moment:
        """Until the user quits; returns the last moment that was seen."""
        standing = self._standing
        due = clock() + self._pause
        shown = ""
        while not standing.quit:
            screen = self._drawn(terminal)
            if screen != shown or terminal.redraw:
                terminal.redraw = False
                terminal.write(screen)
                shown = screen
            waiting = min(IDLE, max(FRAME, due - clock())) if standing.playing else IDLE
            keys = terminal.keys(waiting)
            for key in keys:
                self._press(key)
            if keys:
                due = max(due, clock()) if standing.playing else clock() + self._pause
            while standing.playing and clock() >= due:
                due = max(due + self._pause, clock() - FRAME)
                if not self._tape.forward():
                    standing.playing = False
        return self._tape.now

    @property
    def episode(self) -> int:
        """The number of the episode that is watched."""
        return self._standing.episode

    @property
    def _pause(self) -> float:
        return 1 / SPEEDS[self._standing.speed]

    def _drawn(self, terminal: TakenTerminal) -> str:
        columns, lines = terminal.size()
        standing = self._standing
        view = View(
            cast=self._source.cast,
            episode=standing.episode,
            moment=self._tape.now,
            agent=standing.agent,
            playing=standing.playing,
            speed=f"{SPEEDS[standing.speed]} steps/s",
            agent_view=standing.agent_view,
            help=standing.help,
        )
        drawn = draw(view, Terminal(columns, lines, self._colour, self._unicode))
        return _HOME + "\r\n".join(line + _TO_LINE_END for line in drawn)

    def _press(self, key: str) -> None:
        standing, tape = self._standing, self._tape
        if standing.help and key not in ("q", "quit", "interrupt"):
            standing.help = False
            return
        match key:
            case "space" | "enter":
                if not standing.playing and tape.now.decision is None:
                    self._next(1)
                else:
                    standing.playing = not standing.playing
            case "right" | "." | "l":
                standing.playing = False
                tape.forward()
            case "left" | "," | "h":
                standing.playing = False
                tape.back()
            case "home" | "g":
                standing.playing = False
                tape.rewind()
            case "end" | "G":
                standing.playing = False
                while tape.forward():
                    pass
            case "down" | "tab" | "j":
                standing.agent = (standing.agent + 1) % self._source.cast.num_agents
            case "up" | "back-tab" | "p" | "k":
                standing.agent = (standing.agent - 1) % self._source.cast.num_agents
            case "+" | "=":
                standing.speed = min(len(SPEEDS) - 1, standing.speed + 1)
            case "-" | "_":
                standing.speed = max(0, standing.speed - 1)
            case "v":
                standing.agent_view = not standing.agent_view
            case "n":
                self._next(1)
            case "r":
                self._next(0)
            case "?":
                standing.help = True
            case "q" | "escape" | "interrupt" | "quit":
                standing.quit = True

    def _next(self, by: int) -> None:
        standing = self._standing
        if self._last is not None and standing.episode + by > self._last:
            standing.playing = False
            return
        standing.episode += by
        standing.playing = True
        self._tape = Tape(self._source.moments(standing.episode))
