"""docs/config.md is what the models say today, and it says something of every key."""

from __future__ import annotations

from pathlib import Path

import pytest

from metta_train.cli.compose import ConfigSource, compose, resolved
from metta_train.cli.config_reference import COMMAND, main, page
from metta_train.cli.config_source import conf_folder
from metta_train.cli.suites import Suite
from metta_train.run_config import NO_KEYS, RunConfig
from metta_train.specs.config_docs import documented_keys, field_meanings
from metta_train.specs.config_errors import dotted_keys
from metta_train.specs.config_model import ConfigModel
from tests.cli.command import REPOSITORY

PAGE = REPOSITORY / "docs" / "config.md"
DOCS = documented_keys(RunConfig, skip=NO_KEYS)


@pytest.fixture(scope="module")
def made() -> str:
    return page()


def test_the_page_is_up_to_date(made: str) -> None:
    assert PAGE.read_text() == made, f"docs/config.md is out of date: run {COMMAND}"


def test_every_key_has_a_meaning() -> None:
    assert [doc.key for doc in [*DOCS, *documented_keys(Suite)] if not doc.meaning] == []


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={file.stem}"
        for group in ("env", "trainer", "wandb")
        for file in (conf_folder() / group).glob("*.yaml")
    ],
)
def test_every_key_of_a_file_is_in_it(choice: str) -> None:
    group = choice.partition("=")[0]
    known = {doc.key for doc in DOCS}
    held = {f"{group}.{key}" for key in dotted_keys(resolved(compose([choice], ConfigSource(conf_folder())))[group])}
    free = ("env.features.", "env.task.features.", "env.task.rewards.", "env.options.")
    missing = {
        key for key in held - known if not key.startswith(free) and not any(k.startswith(f"{key}.") for k in known)
    }
    assert missing == set()


def test_meanings_are_read_from_the_strings_below_the_fields() -> None:
    class Parent(ConfigModel):
        size: int

    assert field_meanings(Parent) == {}  # a class inside a function has no place that could be read
    meanings = field_meanings(RunConfig)
    assert meanings["seed"].startswith("Everything random follows from it")
    assert "agent_name" not in meanings
    by_key = {doc.key: doc for doc in DOCS if doc.key.startswith("trainer.")}
    assert by_key["trainer.precision"].choices == ("auto", "fp32", "bf16")
    assert by_key["trainer.ppo.target_kl"].choices == ("null",)
    assert by_key["trainer.batch_size"].needs == "a whole number greater than 0 or auto"
    limit = next(doc for doc in DOCS if doc.key == "env.task.ore_limit")
    assert limit.conditions == (("env.type", "mettagrid"), ("env.task.name", "forage"))


def test_the_command_writes_the_page(made: str, tmp_path: Path) -> None:
    file = tmp_path / "config.md"
    assert main([str(file)]) == 0
    assert file.read_text() == made
    assert main(["a", "b"]) == 2
