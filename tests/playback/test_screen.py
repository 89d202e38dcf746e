"""What is drawn, at any size of terminal."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from metta_train.playback.look import cells
from metta_train.playback.screen import Terminal, View, actions_told, draw
from tests.fakes.scripted_source import ACTIONS, ScriptedSource

SGR = re.compile(r"\x1b\[[\d;]*m")


def view(source: ScriptedSource, step: int = 1, **changes: object) -> View:
    chosen = {"agent": 0, "playing": False, "speed": "10 steps/s", "agent_view": False, "help": False, **changes}
    return View(cast=source.cast, episode=3, moment=source.moment(step), **chosen)


def plain(lines: list[str]) -> str:
    return "\n".join(SGR.sub("", line) for line in lines)


@pytest.mark.parametrize("columns", [1, 7, 20, 50, 63, 64, 80, 200])
@pytest.mark.parametrize("lines", [1, 4, 15, 40])
@pytest.mark.parametrize("help_shown", [False, True])
def test_the_screen_is_filled_and_never_overflows(columns: int, lines: int, help_shown: bool) -> None:
    for source in (ScriptedSource(), ScriptedSource(image=True)):
        drawn = draw(view(source, help=help_shown), Terminal(columns, lines, colour=True, unicode=True))
        assert len(drawn) == lines
        assert max(cells(SGR.sub("", line)) for line in drawn) <= columns
        assert all(SGR.findall(line)[-1:] in ([], ["\x1b[0m"]) for line in drawn), "no style leaks"


def test_everything_is_told_at_80_columns() -> None:
    text = plain(draw(view(ScriptedSource()), Terminal(80, 24, colour=True, unicode=True)))
    assert "mine:100" in text and "corridor, episode 3, greedy" in text
    assert "step 1 of 4" in text and "paused" in text and "reward 0.5000, mean of 2 agents" in text
    assert "agent 0  row 1, column 2" in text and "reward +1.00  total 1.00" in text and "holds ore 1" in text
    assert "value 1.5000" in text
    assert re.search(r">move_east +█+[▉-▏]? +62\.5%", text) and re.search(r" noop +█.* 12\.5%", text)
    assert "██ ·00 · · · · · ·██"[:8] in text, "the agent stands in the second cell of the first row"
    assert "██ ·AlMi · · ·01██" in text, "things and the other agent"
    assert "Al altar  Mi mine" in text and "q quit" in text


def test_without_colour_and_unicode_everything_is_still_there() -> None:
    drawn = draw(view(ScriptedSource()), Terminal(80, 24, colour=False, unicode=False))
    assert "## .AlMi . . .01##" in plain(drawn) and plain(drawn).isascii()
    assert set(re.findall(r"\x1b\[([\d;]*)m", "\n".join(drawn))) <= {"0", "0;1", "0;2", "0;7", "0;1;7", "0;1;4", "0;4"}


def test_the_agent_view_dims_what_the_agent_cannot_see() -> None:
    def dimmed(line: str) -> int:
        return sum(cells(text) for text in re.findall(r"\x1b\[0;2;38;5;236m([^\x1b]*)", line)) // 2

    terminal = Terminal(80, 24, colour=True, unicode=True)
    seen = draw(view(ScriptedSource(), agent_view=True), terminal)[2:7]
    assert [dimmed(line) for line in seen] == [6, 6, 6, 9, 9], "3x3 around row 1, column 2"
    assert not any(dimmed(line) for line in draw(view(ScriptedSource()), terminal))


def test_a_large_map_is_shown_around_the_chosen_agent() -> None:
    drawn = plain(draw(view(ScriptedSource(), agent=1), Terminal(20, 18, colour=False, unicode=True)))
    assert "01" in drawn.splitlines()[3]
    tiny = plain(draw(view(ScriptedSource(), agent=1), Terminal(64, 4, colour=False, unicode=True)))
    assert "01" in tiny.splitlines()[2]


def test_symbols_of_the_game_take_the_place_of_letters() -> None:
    source = ScriptedSource()
    before = source.moment(1)
    assert before.scene is not None
    moment = replace(before, scene=replace(before.scene, symbols={"altar": "🔥", "mine": "m"}))
    seen = replace(view(source), moment=moment)
    text = plain(draw(seen, Terminal(80, 24, colour=True, unicode=True)))
    assert "██ ·🔥Mi · · ·01██" in text and "🔥 altar  Mi mine" in text
    assert "🔥" not in plain(draw(seen, Terminal(80, 24, colour=True, unicode=False)))


def test_the_end_has_no_decision() -> None:
    text = plain(draw(view(ScriptedSource(), step=4), Terminal(80, 24, colour=True, unicode=True)))
    assert "the end" in text and "move_east" not in text and "value" not in text


def test_actions_are_counted_the_most_frequent_first() -> None:
    source = ScriptedSource()
    assert actions_told(source.moment(0), ACTIONS) == "noop 1  move_east 1"
    assert actions_told(source.moment(4), ACTIONS) == ""


def test_names_from_a_game_cannot_command_the_terminal() -> None:
    text = plain(draw(view(ScriptedSource(kinds=("al\x1b[2Jtar",))), Terminal(80, 24, colour=True, unicode=True)))
    assert "\x1b" not in text and "al?[2Jtar" in text
