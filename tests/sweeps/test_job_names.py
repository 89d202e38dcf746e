from __future__ import annotations

import pytest

from metta_train.sweeps.job_names import MAX_LENGTH, job_name, short_keys
from metta_train.training.run_paths import validate_run_name


def test_values_make_the_name_and_the_seed_comes_last() -> None:
    assert job_name({"seed": "1", "trainer.optimizer.learning_rate": "0.001"}) == "learning_rate-0.001__seed-1"
    assert job_name({"trainer.optimizer.learning_rate": "0.001", "seed": "1"}) == "learning_rate-0.001__seed-1"
    assert job_name({}) == "job"


def test_keys_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    keys = ["trainer.optimizer.eps", "trainer.ppo.eps", "agent", "seed"]
    assert short_keys(keys) == {
        "trainer.optimizer.eps": "optimizer.eps",
        "trainer.ppo.eps": "ppo.eps",
        "agent": "agent",
        "seed": "seed",
    }
    assert short_keys(["a.b", "b"]) == {"a.b": "a.b", "b": "b"}


@pytest.mark.parametrize("value", ["a/b", "a b", "[1, 2]", "x" * 300, "-1.", "ä", ""])
def test_every_name_may_name_a_run(value: str) -> None:
    name = job_name({"env.config": value})
    assert len(name) <= MAX_LENGTH
    assert validate_run_name(f"s/{name}") == f"s/{name}"


def test_what_a_folder_cannot_hold_still_tells_names_apart() -> None:
    values = ["a/b", "a b", "a-b", "x" * 300, "x" * 301]
    assert len({job_name({"env.config": value}) for value in values}) == len(values)
