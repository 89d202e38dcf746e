from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from metta_train import load_config
from metta_train.cli.compose import Composition, choice_of, generated_name, quoted
from metta_train.cli.config_source import ConfigSource, conf_folder
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.training.run_paths import validate_run_name
from tests.cli.command import REPOSITORY


def test_conf_of_a_checkout_is_the_one_at_its_root() -> None:
    assert conf_folder() == REPOSITORY / "conf"


def test_the_defaults() -> None:
    config = load_config()
    assert config.agent_name == "agent=fast"
    assert isinstance(config.chosen_agent, AgentConfig)
    assert config.py_agent is None
    assert config.env.type == "mettagrid"
    assert config.wandb.mode == "auto"
    assert (config.seed, config.device, config.data_dir) == (1, "auto", Path("train_dir"))
    assert config.trainer.checkpoint.wandb_checkpoint_interval == 0


def test_py_agent_takes_the_place_of_agent() -> None:
    config = load_config(["py_agent=fast"])
    assert config.agent_name == "py_agent=fast"
    assert isinstance(config.chosen_agent, PyAgentConfig)
    assert config.agent is None
    assert load_config(["agent=fast", "py_agent=none"]).agent_name == "agent=fast"


def test_data_dir_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "/somewhere/else")
    assert load_config().data_dir == Path("/somewhere/else")
    assert load_config(["data_dir=/third"]).data_dir == Path("/third")


def test_the_gpu_trainer_has_the_numbers_of_the_original() -> None:
    trainer = load_config(["trainer=gpu"]).trainer
    assert (trainer.bptt_horizon, trainer.update_epochs) == (64, 1)
    assert trainer.total_timesteps == 10_000_000_000
    assert trainer.optimizer.learning_rate == 0.0004573146765703167
    assert (trainer.optimizer.beta1, trainer.optimizer.beta2, trainer.optimizer.eps) == (0.9, 0.999, 1e-12)
    assert (trainer.ppo.gamma, trainer.ppo.gae_lambda, trainer.ppo.ent_coef) == (0.977, 0.916, 0.0021)
    assert (trainer.ppo.clip_coef, trainer.ppo.vf_clip_coef, trainer.ppo.vf_coef) == (0.1, 0.1, 0.44)
    schedules = trainer.hyperparameter_scheduler
    assert (schedules.learning_rate_schedule.type, schedules.learning_rate_schedule.min_value) == ("cosine", 3e-5)
    assert (schedules.ppo_clip_schedule.type, schedules.ppo_clip_schedule.decay_rate) == ("logarithmic", 0.1)
    assert trainer.checkpoint.wandb_checkpoint_interval == trainer.checkpoint.checkpoint_interval == 50


@pytest.mark.parametrize("agent", ["agent=fast", "py_agent=fast"])
def test_the_experiment_original(agent: str) -> None:
    config = load_config(["experiment=original", agent])
    plain = config.plain()
    core = plain["agent"]["components"]["core"] if agent == "agent=fast" else plain["py_agent"]["core"]
    assert core["bias_init"] == "ones"
    assert plain["env"]["task"]["name"] == "arena"
    assert plain["env"]["time_limit"] == "termination"
    assert plain["env"]["features"]["tag"]["categories"] == 0
    assert config.trainer == load_config(["trainer=gpu"]).trainer
    assert set(plain) == {*load_config([agent]).plain()}


def test_the_command_line_wins_over_an_experiment() -> None:
    config = load_config(["experiment=original", "trainer=smoke", "env=forage", "env.time_limit=truncation"])
    assert config.trainer == load_config(["trainer=smoke"]).trainer
    assert config.plain()["env"]["task"]["name"] == "forage"
    assert config.plain()["env"]["time_limit"] == "truncation"


def test_an_experiment_leaves_agents_that_it_does_not_know_alone() -> None:
    assert load_config(["experiment=original", "agent=mlp"]).chosen_agent == load_config(["agent=mlp"]).chosen_agent


def test_wandb_interval_follows_the_checkpoint_interval_of_gpu() -> None:
    trainer = load_config(
        ["trainer=gpu", "trainer.checkpoint.checkpoint_interval=2500", "trainer.simulation.evaluate_interval=0"]
    ).trainer
    assert trainer.checkpoint.wandb_checkpoint_interval == 2500


def test_names_are_generated_once_per_run() -> None:
    first, second = load_config(["py_agent=fast"]), load_config(["py_agent=fast"])
    assert re.fullmatch(r"py-fast-forage-\d{8}-\d{6}-[0-9a-f]{4}", first.run)
    assert first.run != second.run
    assert load_config(["run=mine"]).run == "mine"
    assert load_config(["run=7"]).run == "7"


@given(agent=st.text(min_size=1), env=st.text())
def test_generated_names_are_valid(agent: str, env: str) -> None:
    choices = {"agent": agent, "env": env, "py_agent": "none"}
    validate_run_name(generated_name(Composition(OmegaConf.create(), choices, ConfigSource(conf_folder()))))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x00$", exclude_categories=["Cs"])))
def test_quoted_texts_arrive_as_they_are(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"run={quoted(text)}"])
    assert override.value() == text


def test_choice_of() -> None:
    assert choice_of("agent", ["py_agent=x", "agent=a", "trainer.agent=c", "+agent=b"]) == "b"
    assert choice_of("agent", ["~agent", "agent.x=3"]) is None


def test_whole_floats_are_whole_numbers() -> None:
    config = load_config(["trainer.total_timesteps=1e6", "trainer.batch_size=6.144e3", "run=x"])
    assert (config.trainer.total_timesteps, config.trainer.batch_size) == (1_000_000, 6144)
    with pytest.raises(ConfigError, match=r"^trainer.total_timesteps=1000000.5: needs a whole number greater than 0$"):
        load_config(["trainer.total_timesteps=1000000.5"])


def test_load_config_leaves_hydra_to_its_host() -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        load_config(["trainer=smoke"])
        assert hydra_compose("train", ["trainer=gpu"]).trainer.bptt_horizon == 64


def test_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match=r"trainer.batchsize=1: unknown key; did you mean trainer.batch_size"):
        load_config(["trainer.batchsize=1"])


def test_a_group_misspelt_is_no_new_key() -> None:
    with pytest.raises(ConfigError, match=re.escape("+experimant=original: unknown key; did you mean experiment?")):
        load_config(["+experimant=original"])
