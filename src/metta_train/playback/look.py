"""How kinds of things and agents look: colours and letters that terminal, films and pages share."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Colour = tuple[int, int, int]

# Okabe and Ito's colours, which people with any colour vision can tell apart; lighter where the ground is dark.
KIND_COLOURS: tuple[Colour, ...] = (
    (240, 228, 66),
    (86, 180, 233),
    (230, 159, 0),
    (0, 190, 140),
    (230, 150, 190),
    (230, 110, 40),
    (170, 170, 170),
)
AGENT_COLOURS: tuple[Colour, ...] = (
    (120, 190, 255),
    (255, 170, 120),
    (150, 225, 140),
    (245, 150, 190),
    (200, 170, 255),
    (255, 220, 120),
    (130, 225, 220),
    (225, 190, 160),
)
WALL, FLOOR, INK, FAINT = (92, 99, 112), (24, 26, 31), (226, 228, 233), (128, 134, 145)
SYMBOL_CELLS = 2  # of a terminal, for one cell of the map


@dataclass(frozen=True, slots=True)
class KindLook:
    """One kind of thing."""

    letters: str  # two of them
    colour: Colour


def looks(kinds: Iterable[str]) -> dict[str, KindLook]:
    """Letters and colours of kinds; the same set of kinds always looks the same, and no two have the same letters."""
    found: dict[str, KindLook] = {}
    taken: set[str] = set()
    for index, kind in enumerate(sorted(set(kinds))):
        letters = next(pair for pair in _pairs(kind, index) if pair not in taken)
        taken.add(letters)
        found[kind] = KindLook(letters, KIND_COLOURS[index % len(KIND_COLOURS)])
    return found


def agent_colour(number: int) -> Colour:
    """Of an agent."""
    return AGENT_COLOURS[number % len(AGENT_COLOURS)]


def symbols_of(own: Mapping[str, str]) -> dict[str, str]:
    """The symbols that a game defines for itself, those that fill one cell of the map exactly."""
    return {kind: symbol for kind, symbol in own.items() if cells(symbol) == SYMBOL_CELLS}


def shown(text: str) -> str:
    """Text from a file as a terminal may see it: without control characters and others of no certain width."""
    return "".join(c if cells(c) > 0 else "?" for c in text)


def cells(text: str) -> int:
    """Columns that a text takes on a terminal; -1 where terminals disagree."""
    total = 0
    for character in text:
        if not character.isprintable() or unicodedata.category(character) in ("Mn", "Me", "Cf"):
            return -1
        total += 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
    return total


def _pairs(kind: str, index: int) -> Iterable[str]:
    letters = [c for c in kind if c.isascii() and c.isalnum()] or ["x"]
    for second in letters[1:]:
        yield letters[0].upper() + second.lower()
    for number in range(10):
        yield f"{letters[0].upper()}{number}"
    yield from (f"{chr(ord('A') + index // 26 % 26)}{chr(ord('a') + n)}" for n in range(26))
    yield from (chr(code) * 2 for code in range(0x4E00, 0x9FFF))  # more kinds than pairs of letters
