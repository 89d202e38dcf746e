from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, field_validator, model_validator

from metta_train.specs.config_errors import (
    describe,
    is_open,
    json_schema,
    nearest_key,
    nearest_path,
    shown,
    unknown_key,
)
from metta_train.specs.config_model import ConfigModel


class Round(ConfigModel):
    shape: Literal["round"]
    radius: Annotated[float, Field(gt=0.0, le=2.0)]


class Square(ConfigModel):
    shape: Literal["square"]
    side: Annotated[int, Field(ge=1)] | Literal["auto"]


class Table(ConfigModel):
    top: Annotated[Round | Square, Field(discriminator="shape")]
    legs: Annotated[int, Field(gt=2, lt=9)]
    names: list[str] | None = None
    colours: dict[str, Annotated[float, Field(ge=0.0)]] | None = None
    wood: str | None = None

    @field_validator("wood")
    @classmethod
    def _wood(cls, value: str | None) -> str | None:
        if value == "stone":
            raise ValueError("stone is no wood")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Table:
        if self.legs == 7:
            raise ValueError("legs=7: seven legs never stand")
        return self


GOOD = {"top": {"shape": "round", "radius": 1.0}, "legs": 4}


def line(changes: dict[str, object]) -> str:
    values = {**GOOD, **changes}
    with pytest.raises(ValidationError) as caught:
        Table.model_validate(values)
    return describe(caught.value, values, json_schema(Table))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"legs": 2}, "legs=2: needs a whole number greater than 2 and below 9"),
        ({"legs": "four"}, "legs=four: needs a whole number greater than 2 and below 9"),
        ({"legs": None}, "legs=null: needs a whole number greater than 2 and below 9"),
        ({"top": {"shape": "round", "radius": 3}}, "top.radius=3: needs a number greater than 0 and at most 2"),
        ({"top": {"shape": "round"}}, "top.radius: missing; needs a number greater than 0 and at most 2"),
        ({"top": {"shape": "square", "side": 0}}, "top.side=0: needs a whole number of at least 1 or auto"),
        (
            {"top": {"shape": "square", "side": "auot"}},
            "top.side=auot: needs a whole number of at least 1 or auto; did you mean auto?",
        ),
        ({"top": {"shape": "squar"}}, "top.shape=squar: needs one of round, square; did you mean square?"),
        ({"top": {"radius": 1.0}}, "top.shape: missing"),
        ({"top": 3}, "top=3: needs keys of its own"),
        (
            {"top": {"shape": "round", "radios": 1.0}},
            "top.radios=1.0: unknown key; did you mean top.radius? (and 1 more)",
        ),
        ({"names": "abc"}, "names=abc: needs a list, like [a,b] or null"),
        ({"names": ["a", 3]}, "names.1=3: needs a text; quote it: \"names.1='3'\""),
        ({"colours": {"red": -1.0}}, "colours.red=-1.0: needs a number of at least 0"),
        ({"wood": "stone"}, "wood=stone: stone is no wood"),
        ({"legs": 7}, "legs=7: seven legs never stand"),
        ({"lags": 1}, "lags=1: unknown key; did you mean legs?"),
    ],
)
def test_one_line(changes: dict[str, object], expected: str) -> None:
    assert line(changes) == expected


def test_nearest_key() -> None:
    known = ["a", "a.rate", "a.inner", "a.inner.depth", "b", "b.size"]
    assert nearest_key("a.rat", known) == "a.rate"
    assert nearest_key("a.iner.dept", known) == "a.inner.depth"
    assert nearest_key("depth", known) == "a.inner.depth"  # the same name elsewhere
    assert nearest_key("b.siz", known) == "b.size"
    assert nearest_key("a.iner.zzz", known) == "a.inner"  # as far as it can be mended
    assert nearest_key("a.inner.zzz", known) is None
    assert nearest_key("zzz", known) is None


def test_unknown_key_lists_the_neighbours_when_nothing_is_near() -> None:
    assert unknown_key("a.zzz", ["a", "a.x", "a.y", "b.c"]) == "unknown key; known are x, y"
    assert unknown_key("q.zzz", ["a"]) == "unknown key"


def test_values_are_shown_as_they_are_written() -> None:
    assert [shown(v) for v in (None, True, 1.5, "a", "", " a", "a\nb", {"a": 1})] == [
        "null", "true", "1.5", "a", "''", "' a'", "'a\\nb'", '{"a": 1}',
    ]  # fmt: skip
    assert len(shown("x" * 500)) == 60


def test_open_mappings() -> None:
    schema = json_schema(Table)
    assert is_open(schema, ("colours",), GOOD)
    assert not is_open(schema, ("top",), GOOD)
    assert not is_open(schema, (), GOOD)


def test_the_nearest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "maze.yaml").touch()
    assert nearest_path("games/mase.yaml") == "; did you mean games/maze.yaml?"
    assert nearest_path("gmaes/mase.yaml") == "; did you mean games/maze.yaml?"
    assert nearest_path(str(tmp_path / "game" / "maze.yaml")) == f"; did you mean {tmp_path}/games/maze.yaml?"
    assert nearest_path("games/other.txt") == nearest_path("games/maze.yaml") == nearest_path("x/y") == ""
