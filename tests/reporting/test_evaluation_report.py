"""What an evaluation says of its episodes."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from metta_train.reporting.evaluation_report import Evaluation, report
from tests.fakes.epoch_records import episode


def evaluation(environment: str = "forage", policy: str = "mine:1000") -> Evaluation:
    episodes = (
        episode(1.0, length=10, stats={"agent/heart.gained": 2.0, "game/nothing": 0.0}),
        episode(3.0, length=30, stats={"game/nothing": 0.0}),
    )
    return Evaluation(environment, policy, 7, episodes, 1.5)


def shown(evaluations: list[Evaluation], width: int = 80, suite: str | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    for part in report(evaluations, "greedy", width, suite):
        console.print(part)
    return out.getvalue()


def test_scores_and_statistics_by_hand() -> None:
    told = evaluation()
    assert (told.score.mean.value, told.mean_length) == (2.0, 20.0)
    assert told.statistics == {"agent/heart.gained": 1.0, "game/nothing": 0.0}, "2 hearts in one of two episodes"


def test_the_report_names_everything_and_counts_zeros() -> None:
    text = shown([evaluation()])
    assert "forage: reward per episode and agent, 2 episodes, seed 7, greedy, 2 s" in text
    assert "agent/heart.gained" in text and "game/nothing" not in text and "and 1 that are 0" in text
    assert "1.0000 to 3.0000" in text


def test_environments_of_a_suite_are_told_apart() -> None:
    for width in (80, 140):
        text = shown([evaluation("one"), evaluation("two"), evaluation("two", "random")], width)
        for line in (r"^one +mine:1000 +2\.0", r"^two +mine:1000 +2\.0", r"^two +random +2\.0"):
            assert re.search(line, text, re.MULTILINE)
        assert text.count("mean per episode") == 2 and "2 episodes each" in text
        assert max(len(line) for line in text.splitlines()) <= width
        assert ("lowest" in text) == (width == 140)


def test_a_suite_is_named_and_has_the_mean_of_its_means() -> None:
    text = shown([evaluation("one"), evaluation("two"), evaluation("two", "random")], suite="both")
    assert text.startswith("suite both: one, two: reward per episode and agent")
    assert re.search(r"^all of them +mine:1000 +2\.0000 *$", text, re.MULTILINE)
    assert "all of them  random" not in text, "it did not play on all of them"


def test_statistics_that_do_not_fit_are_counted() -> None:
    many = [evaluation(policy=f"run-{number}:1000") for number in range(9)]
    text = shown(many)
    assert "2 statistics of 9 policies: --json has them" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_long_name_is_whole_at_80_columns() -> None:
    name = "sweep/seed-10:301056"
    text = shown([evaluation(policy=name), evaluation(policy="mine:1000")])
    assert re.search(rf"^{name} +2\.0", text, re.MULTILINE) and "lowest" not in text
    assert "lowest" in shown([evaluation(policy=name)], 100)


def test_everything_goes_into_json() -> None:
    told = evaluation().plain()
    assert told["episodes"] == [
        {"reward": 1.0, "length": 10, "truncated": True},
        {"reward": 3.0, "length": 30, "truncated": True},
    ]
    assert told["mean_length"] == pytest.approx(20.0)
