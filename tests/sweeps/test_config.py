from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from metta_train.specs.config_errors import describe, json_schema
from metta_train.sweeps.config import SweepConfig, rounded


def space(**parameters: object) -> dict[str, Any]:
    return {"parameters": {key.replace("_", "."): value for key, value in parameters.items()}}


SPACE = space(
    lr={"type": "loguniform", "low": 1e-4, "high": 1e-2},
    gamma={"type": "uniform", "low": 0.9, "high": 1, "center": 0.97},
    epochs={"type": "int", "low": 1, "high": 4},
    agent={"type": "choice", "values": ["fast", "mlp", True]},
)

BAD = {
    "parameters.lr.low=0: needs a number greater than 0": space(lr={"type": "loguniform", "low": 0, "high": 1}),
    "parameters.lr.low=2: needs to be below high=1": space(lr={"type": "uniform", "low": 2, "high": 1}),
    "parameters.lr.center=3: needs to be from 0 to 1": space(lr={"type": "uniform", "low": 0, "high": 1, "center": 3}),
    "parameters.lr.low=0: needs 1 or more with log=true": space(lr={"type": "int", "low": 0, "high": 9, "log": True}),
    "parameters.a.values: one of them is there twice": space(a={"type": "choice", "values": ["x", "x"]}),
    "parameters.a.center=z: needs one of x, y": space(a={"type": "choice", "values": ["x", "y"], "center": "z"}),
    "parameters: run names a trial's folder and is no subject of a search": space(
        run={"type": "choice", "values": ["x", "y"]}
    ),
    "parameters: 'a b' is no key of a configuration": {"parameters": {"a b": {"type": "choice", "values": ["x", "y"]}}},
    "parameters.lr.type=logunifrm: needs one of": space(lr={"type": "logunifrm", "low": 1, "high": 2}),
    "metod=optuna: unknown key; did you mean method?": {**SPACE, "metod": "optuna"},
    "method=optun: needs one of optuna, protein; did you mean optuna?": {**SPACE, "method": "optun"},
    "trials=0: needs a whole number greater than 0": {**SPACE, "trials": 0},
    "parameters: missing": {},
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_told_in_a_line(message: str) -> None:
    values = BAD[message]
    with pytest.raises(ValidationError) as caught:
        SweepConfig.model_validate(values)
    told = describe(caught.value, values, json_schema(SweepConfig))
    assert told.startswith(message) and "\n" not in told


def test_the_middle_of_a_space_is_its_guess() -> None:
    config = SweepConfig.model_validate(SPACE)
    assert config.centers == {"lr": 1e-3, "gamma": 0.97, "epochs": 2, "agent": "mlp"}
    assert config.has_centers


def test_every_end_and_choice_is_in_a_sample() -> None:
    samples = SweepConfig.model_validate(SPACE).samples()
    assert len(samples) == 3
    assert {sample["agent"] for sample in samples} == {"fast", "mlp", True}
    assert {sample["lr"] for sample in samples} == {1e-4, 1e-2}
    assert {sample["epochs"] for sample in samples} == {1, 4}


def test_values_are_as_long_as_a_command_line_likes_them() -> None:
    assert rounded(0.00123456789) == 0.00123457
