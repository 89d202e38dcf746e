"""A replay as one HTML file that needs no server and no network: the page carries the replay's own bytes."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from importlib import resources

from metta_train.playback.look import AGENT_COLOURS, FAINT, FLOOR, INK, WALL, Colour, looks
from metta_train.playback.moments import Cast

_TEMPLATE = "replay_page.html"


def replay_page(replay: bytes, cast: Cast, title: str, kinds: Iterable[str]) -> str:
    """The page.

    Args:
        replay: the file that it plays.
        cast: who plays in it.
        title: the words above; any text.
        kinds: of things in the replay that are no agents.
    """
    template = (resources.files("metta_train.playback") / _TEMPLATE).read_text(encoding="utf-8")
    settings = {
        "title": title,
        "kinds": {kind: {"letters": look.letters, "colour": _css(look.colour)} for kind, look in looks(kinds).items()},
        "agents": [_css(colour) for colour in AGENT_COLOURS],
        "wall": _css(WALL),
        "floor": _css(FLOOR),
        "ink": _css(INK),
        "faint": _css(FAINT),
        "window": cast.window,
    }
    # "<" never stands in what follows: nothing of a replay or a name can end the script that holds it.
    filled = {
        "@TITLE@": html.escape(title),
        "@SETTINGS@": json.dumps(settings).replace("<", "\\u003c"),
        "@REPLAY@": base64.b64encode(replay).decode("ascii"),
    }
    for mark, text in filled.items():
        assert template.count(mark) == 1, mark
        before, after = template.split(mark)
        template = before + text + after
    return template


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
