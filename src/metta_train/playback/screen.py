"""A moment as lines of text for a terminal of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metta_train.playback.look import KindLook, agent_colour, cells, looks, shown, symbols_of
from metta_train.playback.moments import Cast, Moment
from metta_train.specs.scene import Scene, Thing

PANEL = 36  # columns beside the map
NARROW = 64  # a terminal with fewer columns has the panel below the map
PANEL_LINES = 12  # there
RESET = "\x1b[0m"
KEYS = (
    ("space", "play"),
    (". ,", "step"),
    ("tab", "agent"),
    ("+ -", "speed"),
    ("v", "view"),
    ("n", "next"),
    ("?", "help"),
    ("q", "quit"),
)
HELP = (
    "space          play or pause",
    ". ,            one step on or back (also right and left)",
    "home           back to the first step that is remembered",
    "end            on to the end of the episode",
    "tab, p         next or previous agent (also down and up)",
    "+ -            faster, slower",
    "v              what the agent sees stands out from the rest",
    "n              next episode, on another map",
    "r              this episode from its start",
    "?              this help",
    "q, esc         quit",
)


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a terminal can show."""

    columns: int
    lines: int
    colour: bool
    unicode: bool


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen."""

    cast: Cast
    episode: int
    moment: Moment
    agent: int
    playing: bool
    speed: str
    agent_view: bool
    help: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    style: str = ""  # parameters of an SGR sequence


_Line = list[_Piece]
_DIM, _BOLD, _REVERSE = "2", "1", "7"


def draw(view: View, terminal: Terminal) -> list[str]:
    """Exactly `terminal.lines` lines of at most `terminal.columns` columns."""
    columns, height = terminal.columns, max(1, terminal.lines - 3)
    beside = columns >= NARROW
    panel_width = min(PANEL, columns) if beside else columns
    map_height = height if beside else max(1, height - PANEL_LINES)
    map_width = columns - panel_width - 2 if beside else columns
    if view.help:
        body: list[_Line] = [[_Piece(f"  {line}")] for line in HELP]
    else:
        picture = _picture(view, terminal, map_width, map_height)
        if beside:
            panel = _panel(view, terminal, panel_width, height)
            used = max([_width(line) for line in picture], default=0)
            body = _side_by_side(picture, used, panel, height)
        else:
            picture += [[]] * (map_height - len(picture))
            body = picture + _panel(view, terminal, columns, PANEL_LINES)
    body = body[:height] + [[]] * (height - len(body))
    lines = [_header(view), [], *body, _footer(columns)]
    return [_rendered(line, columns, terminal.colour) for line in lines[: terminal.lines]]


def actions_told(moment: Moment, names: tuple[str, ...]) -> str:
    """How many agents take which action, the most frequent first: `move_north 7  noop 5`."""
    if moment.decision is None:
        return ""
    counts = np.bincount(moment.decision.actions, minlength=len(names))
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    return "  ".join(f"{shown(names[index])} {counts[index]}" for index in order)


def _header(view: View) -> _Line:
    cast = view.cast
    rest = f"  {shown(cast.environment)}, episode {view.episode}, {cast.how}"
    return [_Piece(f" {shown(cast.policy)}", _BOLD), _Piece(rest, _DIM)]


def _footer(columns: int) -> _Line:
    line: _Line = []
    for key, meaning in KEYS:
        pieces = [_Piece(f" {key}", _BOLD), _Piece(f" {meaning} ", _DIM)]
        if _width(line) + _width(pieces) > columns:
            break
        line += pieces
    return line


# ----- the panel beside the map


def _panel(view: View, terminal: Terminal, width: int, height: int) -> list[_Line]:
    moment, agent = view.moment, view.agent
    limit = "" if view.cast.limit is None else f" of {view.cast.limit}"
    ended = moment.decision is None
    state = "the end" if ended else view.speed if view.playing else "paused"
    counted = f"step {moment.step}{limit}"
    title: _Line = [_Piece(counted, _BOLD), _Piece(state.rjust(width - len(counted) - 1), _DIM)]
    agents = "" if view.cast.num_agents == 1 else f", mean of {view.cast.num_agents} agents"
    lines: list[_Line] = [title, [_Piece(f"reward {moment.score:.4f}"), _Piece(agents, _DIM)], []]
    lines += _agent_lines(view, width)
    told = min(len(view.cast.actions), max(1, height - len(lines) - 1))
    lines += _probabilities(view, terminal, width, told)
    if moment.scene is not None:
        lines += [[], *_legend(moment.scene, agent, width, _symbols(moment.scene, terminal))]
    return lines[:height]


def _agent_lines(view: View, width: int) -> list[_Line]:
    moment, agent = view.moment, view.agent
    lines: list[_Line] = []
    total = f"reward {moment.rewards[agent]:+.2f}  total {moment.totals[agent]:.2f}"
    if view.cast.num_agents > 1:
        where = ""
        thing = None if moment.scene is None else moment.scene.agent(agent)
        if thing is not None:
            where = f"  row {thing.row}, column {thing.column}"
        lines.append([_Piece(f"agent {agent}", _BOLD), _Piece(where, _DIM)])
        lines.append([_Piece(total)])
        if thing is not None:
            held = ", ".join(f"{shown(name)} {amount}" for name, amount in thing.holds) or "nothing"
            lines.append([_Piece(f"holds {held}"[:width])])
    decision = moment.decision
    if decision is not None and decision.values is not None:
        lines.append([_Piece(f"value {decision.values[agent]:.4f}")])
    return lines


def _probabilities(view: View, terminal: Terminal, width: int, most: int) -> list[_Line]:
    decision, names = view.moment.decision, view.cast.actions
    if decision is None:
        return []
    taken = int(decision.actions[view.agent])
    if decision.probabilities is None:
        return [[_Piece(f"does {shown(names[taken])}")]]
    own = decision.probabilities[view.agent]
    chosen = range(len(names))
    if most < len(names):
        chosen = sorted(np.argsort(-own, kind="stable")[:most].tolist())
    name_width = min(max(len(names[index]) for index in chosen), width - 18)
    bar_width = max(1, width - name_width - 10)
    lines: list[_Line] = []
    for index in chosen:
        name = shown(names[index])[:name_width].ljust(name_width)
        mark = ">" if index == taken else " "
        bar = _bar(float(own[index]), bar_width, unicode=terminal.unicode)
        style = _BOLD if index == taken else ""
        lines.append([_Piece(f"{mark}{name} ", style), _Piece(bar, "38;5;75"), _Piece(f"{own[index]:7.1%}", style)])
    return lines


def _legend(scene: Scene, agent: int, width: int, symbols: Mapping[str, str]) -> list[_Line]:
    lines: list[_Line] = [[_Piece("00", _agent_style(0)), _Piece(" agent, "), _Piece(f"{agent:02d}"[-2:], _REVERSE)]]
    lines[0].append(_Piece(" the chosen one"))
    for kind, look in looks(scene.kinds).items():
        item = [_Piece(symbols.get(kind, look.letters), _foreground(look.colour)), _Piece(f" {shown(kind)}  ")]
        if _width(lines[-1]) + _width(item) <= width and len(lines) > 1:
            lines[-1] += item
        else:
            lines.append(item)
    return lines


def _symbols(scene: Scene, terminal: Terminal) -> Mapping[str, str]:
    return symbols_of(scene.symbols) if terminal.unicode else {}


# ----- the map


def _picture(view: View, terminal: Terminal, width: int, height: int) -> list[_Line]:
    scene, image = view.moment.scene, view.moment.image
    if scene is not None:
        return _map(view, scene, terminal, width // 2, height)
    if image is not None and terminal.colour and terminal.unicode:
        return _half_blocks(image, width, height)
    return [
        [_Piece(line, _DIM)] for line in ("no picture of this environment here;", "--gif FILE draws one where it can")
    ]


def _map(view: View, scene: Scene, terminal: Terminal, width: int, height: int) -> list[_Line]:
    """The part of the map that fits, around the chosen agent."""
    centre = scene.agent(view.agent)
    first_row = _first(scene.height, height, 0 if centre is None else centre.row)
    first_column = _first(scene.width, width, 0 if centre is None else centre.column)
    things = {(thing.row, thing.column): thing for thing in scene.things}
    found = looks(scene.kinds)
    symbols = _symbols(scene, terminal)
    wall, floor = ("██", " ·") if terminal.unicode else ("##", " .")
    lines = []
    for row in range(first_row, min(scene.height, first_row + height)):
        line: _Line = []
        for column in range(first_column, min(scene.width, first_column + width)):
            if (thing := things.get((row, column))) is not None:
                piece = _thing(thing, found, symbols, chosen=thing.agent == view.agent)
            elif (row, column) in scene.walls:
                piece = _Piece(wall, "38;5;240")
            else:
                piece = _Piece(floor, "38;5;238")
            if view.agent_view and not _seen(view, centre, row, column):
                piece = _Piece(piece.text, "2;38;5;236")
            line.append(piece)
        lines.append(line)
    return lines


def _thing(thing: Thing, found: dict[str, KindLook], symbols: Mapping[str, str], *, chosen: bool) -> _Piece:
    if thing.agent is not None:
        style = f"{_BOLD};{_REVERSE}" if chosen else _agent_style(thing.agent)
        return _Piece(f"{thing.agent:02d}"[-2:], style)
    look = found[thing.kind]
    style = f"{_BOLD};{_foreground(look.colour)}" + (";4" if thing.holds else "")
    return _Piece(symbols.get(thing.kind, look.letters), style)


def _seen(view: View, centre: Thing | None, row: int, column: int) -> bool:
    if centre is None or view.cast.window is None:
        return True
    height, width = view.cast.window
    return abs(row - centre.row) <= height // 2 and abs(column - centre.column) <= width // 2


def _first(size: int, room: int, wanted: int) -> int:
    """The first of `room` rows (or columns) of a map that shows `wanted`, in the middle where it can be."""
    return max(0, min(wanted - room // 2, size - room))


def _half_blocks(image: NDArray[np.uint8], width: int, height: int) -> list[_Line]:
    """Two pixels per character, one above the other."""
    scale = max(image.shape[1] / width, image.shape[0] / (2 * height))
    columns, rows = max(1, int(image.shape[1] / scale)), max(1, int(image.shape[0] / scale / 2))
    at_row = ((np.arange(2 * rows) + 0.5) * image.shape[0] / (2 * rows)).astype(int)
    at_column = ((np.arange(columns) + 0.5) * image.shape[1] / columns).astype(int)
    pixels = image[at_row][:, at_column].tolist()
    lines: list[_Line] = []
    for row in range(rows):
        above, below = pixels[2 * row], pixels[2 * row + 1]
        lines.append([_Piece("▀", f"{_foreground(a)};{_background(b)}") for a, b in zip(above, below, strict=True)])
    return lines


# ----- text


def _bar(share: float, width: int, *, unicode: bool) -> str:
    if not unicode:
        return ("#" * round(share * width)).ljust(width)
    eighths = round(share * width * 8)
    part = " ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else ""
    return ("█" * (eighths // 8) + part).ljust(width)


def _agent_style(number: int) -> str:
    return f"38;5;16;{_background(agent_colour(number))}"


def _foreground(colour: Sequence[int]) -> str:
    return f"38;5;{_nearest(colour)}"


def _background(colour: Sequence[int]) -> str:
    return f"48;5;{_nearest(colour)}"


def _nearest(colour: Sequence[int]) -> int:
    """Of the 6x6x6 cube of the 256 colours, which every terminal of today has."""
    red, green, blue = (min(5, max(0, round((value - 35) / 40))) if value >= 48 else 0 for value in colour)
    return 16 + 36 * red + 6 * green + blue


def _width(line: _Line) -> int:
    return sum(cells(piece.text) for piece in line)


def _side_by_side(left: list[_Line], used: int, right: list[_Line], height: int) -> list[_Line]:
    lines: list[_Line] = []
    for row in range(min(height, max(len(left), len(right)))):
        first = left[row] if row < len(left) else []
        gap = _Piece(" " * (used - _width(first) + 2))
        lines.append([*first, gap, *(right[row] if row < len(right) else [])])
    return lines


def _rendered(line: _Line, columns: int, colour: bool) -> str:
    out: list[str] = []
    room, before = columns, ""
    for piece in line:
        text = piece.text
        while cells(text) > room:
            text = text[:-1]
        room -= cells(text)
        style = piece.style if colour else _without_colour(piece.style)
        if style != before:
            out.append(f"\x1b[0;{style}m" if style else RESET)
            before = style
        out.append(text)
        if room <= 0:
            break
    return "".join(out).rstrip() + (RESET if before else "")


def _without_colour(style: str) -> str:
    parts = style.split(";")
    kept: list[str] = []
    while parts:
        if parts[0] in ("38", "48"):
            del parts[:3]
        else:
            kept.append(parts.pop(0))
    return ";".join(kept)
