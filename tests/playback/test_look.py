"""Letters and colours of kinds."""

from __future__ import annotations

from metta_train.playback.look import cells, looks, shown, symbols_of


def test_no_two_kinds_have_the_same_letters() -> None:
    kinds = [f"mine_{index}" for index in range(60)] + ["m", "mi", "", "é", "altar"]
    found = looks(kinds)
    letters = [look.letters for look in found.values()]
    assert len(set(letters)) == len(kinds) and all(cells(pair) >= 2 for pair in letters)
    assert found["altar"].letters == "Al"
    assert looks(reversed(kinds)) == found, "whatever the order"


def test_game_symbols_are_taken_where_they_fill_a_cell() -> None:
    assert symbols_of({"altar": "🔥", "mine": "m", "gear": "\u2699\ufe0f", "bad": "\x1b["}) == {"altar": "🔥"}


def test_text_of_files_cannot_command_the_terminal() -> None:
    assert shown("mine\x1b[2J\x07\u202e") == "mine?[2J??"
