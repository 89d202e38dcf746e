"""Curves in characters: right rows and columns, whole names, no line too long."""

from __future__ import annotations

import numpy as np
import pytest

from metta_train.reporting.curves import Curve
from metta_train.reporting.run_tables import age, size
from metta_train.reporting.terminal_chart import Glyphs, amount, terminal_chart, tick_label

PLAIN = Glyphs(braille=False, colour=False)
RISING = Curve(np.array([0.0, 9.0]), np.array([0.0, 4.0]))


def chart(*curves: tuple[str, Curve], width: int = 18, height: int = 5, glyphs: Glyphs = PLAIN) -> list[str]:
    lines = terminal_chart(curves, width=width, height=height, x_title="steps", glyphs=glyphs)
    return [line.plain for line in lines]


def test_a_line_in_marks_by_hand() -> None:
    """Ten columns for x = 0..9 and five rows for y = 4..0: column x lies in row 4 - 4x/9, rounded."""
    assert chart(("mine", RISING)) == [
        "4.0000 |        oo",
        "       |      oo  ",
        "       |    oo    ",
        "       |  oo      ",
        "0.0000 |oo        ",
        "       +----------",
        "        0 steps  9",
    ]


def test_two_curves_have_marks_of_their_own_and_a_legend() -> None:
    falling = Curve(RISING.x, RISING.y[::-1].copy())
    lines = chart(("up", RISING), ("down", falling))
    assert lines[0][8:] == "xx      oo" and lines[4][8:].startswith("o") and lines[-1].strip() == "o up   x down"


def test_braille_is_connected() -> None:
    """One curve over 10 columns x 5 rows: every one of the 20 half columns has a dot, and jumps are filled."""
    step = Curve(np.array([0.0, 4.0, 5.0, 9.0]), np.array([0.0, 0.0, 4.0, 4.0]))
    lines = chart(("mine", step), glyphs=Glyphs(braille=True, colour=False))
    area = [line[8:] for line in lines[:5]]
    assert all(any(row[column] != " " for row in area) for column in range(10))
    assert all(row.strip() for row in area), "the jump passes every row"
    assert set("".join(area)) - {" "} <= {chr(0x2800 + bits) for bits in range(1, 256)}


def test_zero_is_told_as_zero() -> None:
    """0.3 - 3 * 0.1 is -5.6e-17."""
    curve = Curve(np.array([0.0, 9.0]), np.array([-0.1, 0.3]))
    assert [line.partition("|")[0].strip() for line in chart(("mine", curve), height=13)[:13:4]] == [
        "0.3000",
        "0.1667",
        "0.0333",
        "-0.1000",
    ]
    low = chart(("mine", Curve(curve.x, np.array([-1.39e-17, 0.1042]))))
    assert low[4].startswith("0.0000 |")


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ((0, 50_000, 100_000, 150_000), "0 50k 100k 150k"),
        ((0, 2500, 5000), "0 2.5k 5.0k"),
        ((2.0, 2.5, 3.0), "2.0 2.5 3.0"),
        ((0, 0.25e6, 0.5e6, 1e6), "0 0.25M 0.50M 1.00M"),
        ((0, 1, 2), "0 1 2"),
    ],
)
def test_ticks_of_one_axis_share_unit_and_decimals(ticks: tuple[float, ...], labels: str) -> None:
    assert " ".join(tick_label(tick, ticks) for tick in ticks) == labels


def test_curves_of_one_value_or_none() -> None:
    flat = Curve(np.array([5.0]), np.array([2.0]))
    assert len(chart(("mine", flat))) == 7
    assert chart(("none", Curve(np.zeros(0), np.zeros(0)))) == ["no values yet"]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_no_line_is_wider_than_asked(width: int) -> None:
    noisy = Curve(np.arange(1000.0), np.random.default_rng(0).normal(size=1000) * 1e5)
    for glyphs in (PLAIN, Glyphs(True, False), Glyphs(True, True)):
        assert max(len(line) for line in chart(("mine", noisy), width=width, height=13, glyphs=glyphs)) <= width


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (1000, "1.00k"), (67_584, "67.6k"), (999_999, "1.00M"), (1e8, "100M"), (2.5e9, "2.50B")],
)
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


def test_ages_and_sizes() -> None:
    assert [age(s) for s in (0, 59, 60, 3600, 86400, 172800, 1209600)] == ["0s", "59s", "1m", "1h", "24h", "2d", "2w"]
    assert [size(n) for n in (0, 1023, 1536, 7 << 20, 200 << 20)] == ["0 B", "1023 B", "1.5 KiB", "7.0 MiB", "200 MiB"]
