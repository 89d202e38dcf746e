"""Curves drawn with characters: braille dots where colours tell them apart, marks where they must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metta_train.reporting.curves import Curve
from metta_train.reporting.run_view import number

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")
MARKS = "ox+*#@"
_TICK_EVERY = 4  # rows
_UNITS = (("B", 1e9), ("M", 1e6), ("k", 1e3))
_MAX_DECIMALS = 4
_BRAILLE = 0x2800
# The bit of each dot of a braille character, [row][column] from the top left.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What an output can show."""

    braille: bool  # UTF-8
    colour: bool


def terminal_chart(
    curves: Sequence[tuple[str, Curve]], *, width: int, height: int, x_title: str, glyphs: Glyphs
) -> list[Text]:
    """The curves over one pair of axes, and a legend when there are several.

    Args:
        curves: label and curve; those without points are left out.
        width: columns of the whole picture.
        height: rows of the plotting area.
        x_title: what the x axis counts.
        glyphs: one curve, or several in colour, are drawn in braille; otherwise each has a mark of its own.
    """
    from rich.text import Text

    drawn = [(label, c) for label, c in curves if len(c.x)]
    if not drawn:
        return [Text("no values yet", style="dim italic")]
    low_y, high_y = _range([c.y for _, c in drawn])
    low_x, high_x = _range([c.x for _, c in drawn])
    labels = _tick_labels(low_y, high_y, height)
    margin = max(len(label) for label in labels) + 2
    columns = max(10, width - margin)
    dots = glyphs.braille and (glyphs.colour or len(drawn) == 1)
    canvas = [[(" ", "")] * columns for _ in range(height)]
    for index, (_, c) in enumerate(drawn):
        style = COLOURS[index % len(COLOURS)]
        scale = (columns, 4 * height, 2) if dots else (columns, height, 1)
        rows = _rows(c, low_x, high_x, low_y, high_y, *scale)
        if dots:
            _draw_dots(canvas, rows, style)
        else:
            _draw_marks(canvas, rows, MARKS[index % len(MARKS)], style)
    lines = []
    for row, label in enumerate(labels):
        axis = ("┤" if label else "│") if glyphs.braille else "|"
        line = Text.assemble((f"{label:>{margin - 2}} {axis}", "dim"))
        for character, style in canvas[row]:
            line.append(character, style=style)
        lines.append(line)
    corner, dash = ("└", "─") if glyphs.braille else ("+", "-")
    lines.append(Text(" " * (margin - 1) + corner + dash * columns, style="dim"))
    lines.append(Text(" " * margin + _x_labels(low_x, high_x, columns, x_title), style="dim"))
    if len(drawn) > 1:
        lines.append(_legend([label for label, _ in drawn], margin, dots=dots))
    return lines


def amount(value: float) -> str:
    """A count for an axis or a narrow column: `950`, `67.6k`, `1.00M`, `2.50B`."""
    for unit, size in _UNITS:
        if abs(value) >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0}f}{unit}"
    return f"{value:.0f}"


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """A tick of an axis, in the unit and with the decimals that all its ticks need: `50k` beside `100k`."""
    largest = max(abs(tick) for tick in ticks)
    if abs(value) <= 1e-9 * largest:
        return "0"
    unit, size = next(((u, s) for u, s in _UNITS if largest >= s), ("", 1.0))
    exact = (d for d in range(_MAX_DECIMALS) if all(abs(t / size - round(t / size, d)) < 1e-6 for t in ticks))
    return f"{value / size:.{next(exact, _MAX_DECIMALS)}f}{unit}"


def _range(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        room = abs(high) * 0.1 or 1.0
        return low - room, high + room
    return low, high


def _rows(
    curve: Curve, low_x: float, high_x: float, low_y: float, high_y: float, columns: int, height: int, per_column: int
) -> list[int | None]:
    """The row, from the top, of each column (or half column) that the curve reaches; means where it is dense."""
    count = columns * per_column
    position = (curve.x - low_x) / (high_x - low_x) * (count - 1)
    cells = np.rint(position).astype(int)
    totals = np.bincount(cells, weights=curve.y, minlength=count)
    numbers = np.bincount(cells, minlength=count)
    known = np.flatnonzero(numbers)
    means = np.interp(np.arange(count), known, totals[known] / numbers[known])
    rows = np.rint((high_y - means) / (high_y - low_y) * (height - 1)).astype(int)
    return [int(rows[i]) if known[0] <= i <= known[-1] else None for i in range(count)]


def _draw_dots(canvas: list[list[tuple[str, str]]], rows: Sequence[int | None], style: str) -> None:
    """A connected line; where two curves share a character it has the dots of both and the colour of the last."""
    before: int | None = None
    for x, row in enumerate(rows):
        if row is None:
            before = None
            continue
        if before is None or before == row:
            reached = [row]
        else:
            step = 1 if row > before else -1
            reached = list(range(before + step, row + step, step))
        for y in reached:
            character, _ = canvas[y // 4][x // 2]
            bits = ord(character) - _BRAILLE if character != " " else 0
            canvas[y // 4][x // 2] = (chr(_BRAILLE + (bits | _DOTS[y % 4][x % 2])), style)
        before = row


def _draw_marks(canvas: list[list[tuple[str, str]]], rows: Sequence[int | None], mark: str, style: str) -> None:
    for x, row in enumerate(rows):
        if row is not None:
            canvas[row][x] = (mark, style)


def _tick_labels(low: float, high: float, height: int) -> list[str]:
    """One text per row, empty for most; top and bottom are labelled."""
    ticks = set(range(0, height, _TICK_EVERY)) | {height - 1}
    if height - 1 - max(ticks - {height - 1}) < _TICK_EVERY / 2:
        ticks -= {max(ticks - {height - 1})}
    values = (high - (high - low) * row / (height - 1) for row in range(height))
    # What rounding leaves of zero is zero.
    exact = (0.0 if abs(value) < 1e-9 * (high - low) else value for value in values)
    return [number(value) if row in ticks else "" for row, value in enumerate(exact)]


def _x_labels(low: float, high: float, columns: int, title: str) -> str:
    left, right = amount(low), amount(high)
    room = columns - len(left) - len(right)
    return f"{left}{title if len(title) + 2 <= room else '':^{room}}{right}"


def _legend(labels: Sequence[str], margin: int, *, dots: bool) -> Text:
    from rich.text import Text

    legend = Text(" " * margin)
    for index, label in enumerate(labels):
        sign = "━━" if dots else MARKS[index % len(MARKS)]
        legend.append(f"{sign} ", style=COLOURS[index % len(COLOURS)])
        legend.append(f"{label}   ")
    legend.rstrip()
    return legend
