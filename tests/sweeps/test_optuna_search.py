from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from metta_train.sweeps.config import SweepConfig, Values
from metta_train.sweeps.trial import Trial

pytest.importorskip("optuna")
from metta_train.sweeps.optuna_search import OptunaSearch

SPACE = {
    "seed": 3,
    "optuna": {"startup_trials": 4, "pruner_startup_trials": 2, "warmup_looks": 1, "looks": 10},
    "parameters": {
        "lr": {"type": "loguniform", "low": 1e-4, "high": 1e-2, "center": 1e-3},
        "gamma": {"type": "uniform", "low": 0.9, "high": 0.99},
        "epochs": {"type": "int", "low": 1, "high": 64, "log": True},
        "agent": {"type": "choice", "values": ["fast", "mlp"], "center": "mlp"},
    },
}


def search(folder: Path, trials: Mapping[int, Trial] | None = None, **changes: object) -> OptunaSearch:
    config = SweepConfig.model_validate({**SPACE, **changes})
    return OptunaSearch(config, name="t", folder=folder, trials=trials or {}, parallel=False)


def ended(number: int, values: Values, score: float | None) -> Trial:
    return Trial(number, values, "failed" if score is None else "done", score=score, seconds=1.0)


def test_the_guess_comes_first_and_all_values_lie_in_the_space(tmp_path: Path) -> None:
    method = search(tmp_path)
    proposed = []
    for number in range(8):
        values = method.propose(number)
        proposed.append(values)
        method.tell(ended(number, values, float(number) if number % 3 else None))
    assert proposed[0] == {"lr": 1e-3, "gamma": 0.945, "epochs": 8, "agent": "mlp"}
    for values in proposed:
        lr, gamma, epochs = values["lr"], values["gamma"], values["epochs"]
        assert isinstance(lr, float) and 1e-4 <= lr <= 1e-2
        assert isinstance(gamma, float) and 0.9 <= gamma <= 0.99
        assert type(epochs) is int and 1 <= epochs <= 64
        assert values["agent"] in ("fast", "mlp")
    assert len({str(values) for values in proposed}) == 8


def test_it_learns_where_the_best_values_are(tmp_path: Path) -> None:
    method = search(tmp_path, parameters={"x": {"type": "uniform", "low": -1.0, "high": 1.0}})
    tried = []
    for number in range(30):
        values = method.propose(number)
        x = values["x"]
        assert isinstance(x, float)
        tried.append(x)
        method.tell(ended(number, values, -((x - 0.5) ** 2)))
    late = tried[20:]
    assert sum(abs(x - 0.5) for x in late) / len(late) < 0.4


def test_a_study_goes_on_where_a_search_was_killed(tmp_path: Path) -> None:
    first = search(tmp_path)
    told, open_, untold = (first.propose(number) for number in range(3))
    first.tell(ended(0, told, 1.0))
    # Killed: trial 1 was running, trial 2 had ended and was written down, but not told.
    trials = {0: ended(0, told, 1.0), 1: Trial(1, open_), 2: ended(2, untold, 2.0)}
    second = search(tmp_path, trials)
    second.go_on(trials[1])
    assert not second.is_hopeless(trials[1], 1, 0.5)
    second.tell(ended(1, open_, 0.5))
    assert second.propose(3) not in (told, open_, untold)
    # Killed between the proposal and its being written down: the same values again.
    third = search(tmp_path, {**trials, 1: ended(1, open_, 0.5)})
    assert third.propose(3) == third.propose(3)


@pytest.mark.parametrize(("goal", "good", "bad"), [("maximize", 5.0, 1.0), ("minimize", 1.0, 5.0)])
def test_what_is_worse_than_the_others_is_hopeless(tmp_path: Path, goal: str, good: float, bad: float) -> None:
    method = search(tmp_path, goal=goal)
    for number in range(3):
        values = method.propose(number)
        for look in (1, 2, 3):
            assert not method.is_hopeless(Trial(number, values), look, 3.0)
        method.tell(ended(number, values, 3.0))
    one, other = Trial(3, method.propose(3)), Trial(4, method.propose(4))
    assert not method.is_hopeless(one, 1, bad), "the first look has no consequences"
    assert method.is_hopeless(one, 2, bad)
    assert not method.is_hopeless(other, 2, good)
    method.tell(Trial(3, one.values, "pruned", score=bad))
