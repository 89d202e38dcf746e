"""Every file in conf/ composes and validates; none of them can run code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from metta_train import load_config
from metta_train.cli.compose import ConfigSource
from metta_train.cli.config_source import conf_folder
from metta_train.cli.suites import load_suite
from metta_train.training.config import TrainerConfig

CONF = conf_folder()
ALL_FILES = sorted(file.relative_to(CONF) for file in CONF.rglob("*.yaml"))
SUITES = [file.stem for file in ALL_FILES if file.parent.as_posix() == "eval"]
FILES = [file for file in ALL_FILES if file.parent.as_posix() not in ("eval", "sweep")]  # what a run is composed of

# What a choice needs beside itself to be a whole configuration.
COMPANIONS = {
    "agent/mlp": ["env=gymnasium"],
    "env/gymnasium": ["agent=mlp"],
    "env/mettagrid": ["env.config=game.yaml"],
    "env/pettingzoo": ["env.id=sisl/pursuit_v5"],
    "env/plugin": ["env.name=mine"],
}


def overrides_for(file: Path) -> list[str]:
    """The command line that composes this file."""
    group, option = file.parent.as_posix(), file.stem
    if group == "experiment/agent":
        experiment, _, agent = option.partition("_")
        return [f"experiment={experiment}", f"agent={agent}"]
    if group == "experiment/py_agent":
        experiment, _, agent = option.partition("_")
        return [f"experiment={experiment}", f"py_agent={agent}"]
    chosen = [] if group in (".", "hydra/hydra_logging") else [f"{group}={option}"]
    return [*chosen, *COMPANIONS.get(f"{group}/{option}", [])]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_it_composes_and_validates(file: Path) -> None:
    config = load_config(overrides_for(file))
    assert config.plain()["trainer"].keys() == TrainerConfig.model_fields.keys()


@pytest.mark.parametrize("name", SUITES)
def test_every_environment_of_a_suite_composes(name: str) -> None:
    suite = load_suite(name, ConfigSource(CONF))
    assert name in suite.environments, "the plain task comes with what is off the beaten track"
    for overrides in suite.environments.values():
        assert load_config(overrides).env.desync_episodes


@pytest.mark.parametrize("trainer", sorted(file.stem for file in (CONF / "trainer").glob("*.yaml")))
@pytest.mark.parametrize("agent", ["agent=fast", "py_agent=fast"])
@pytest.mark.parametrize("env", ["forage", "arena"])
def test_the_groups_go_together(trainer: str, agent: str, env: str) -> None:
    config = load_config([agent, f"trainer={trainer}", f"env={env}"])
    assert config.agent_name == agent


@pytest.mark.parametrize("file", ALL_FILES, ids=str)
def test_it_holds_plain_values(file: Path) -> None:
    text = (CONF / file).read_text()
    yaml.safe_load(text)
    assert not re.search(r"(^|[\s{,])_target_\s*:", text) and "!!" not in text
    assert file == Path("train.yaml") or "${" not in text.replace("${.checkpoint_interval}", "")


@pytest.mark.parametrize("file", ALL_FILES, ids=str)
def test_it_begins_by_saying_what_it_is(file: Path) -> None:
    lines = [line for line in (CONF / file).read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("#") or file.parent.as_posix() in ("py_agent", "experiment/agent", "experiment/py_agent")
