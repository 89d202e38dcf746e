"""Overrides of a saved environment: data in, data out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metta_train import load_config
from metta_train.cli.compose import ConfigSource
from metta_train.cli.config_source import conf_folder
from metta_train.cli.env_overrides import with_env_overrides
from metta_train.cli.suites import load_suite
from metta_train.specs.config_errors import ConfigError

SOURCE = ConfigSource(conf_folder())


def saved(*overrides: str) -> dict[str, Any]:
    return load_config(["run=x", *overrides]).plain()


def changed(*overrides: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    return with_env_overrides(saved() if values is None else values, overrides, SOURCE, "x").plain()


def test_without_overrides_the_environment_is_the_saved_one() -> None:
    values = saved("py_agent=fast", "env=arena", "env.task.rooms=2", "seed=7")
    told = changed(values=values)
    assert {key: told[key] for key in ("py_agent", "env", "seed")} == {
        key: values[key] for key in ("py_agent", "env", "seed")
    }
    assert "agent" not in told


def test_keys_change_the_saved_environment_and_nothing_else() -> None:
    values = saved("env.task.rooms=2")
    told = changed("env.max_steps=50", "env.task.heart_reward=2.5", values=values)
    assert told["env"]["max_steps"] == 50
    assert told["env"]["task"] == {**values["env"]["task"], "heart_reward": 2.5}
    assert values["env"]["max_steps"] is None, "the saved values are left alone"


def test_open_mappings_take_new_keys() -> None:
    told = changed("env.features={tag: {categories: 7}}", "+env.features.goal.omit=true")
    assert told["env"]["features"]["tag"]["categories"] == 7
    assert told["env"]["features"]["goal"]["omit"] is True


def test_a_choice_takes_the_environment_as_metta_train_composes_it() -> None:
    told = changed("env=arena", "env.task.rooms=1", values=saved("env.task.rooms=3"))
    assert told["env"] == load_config(["env=arena", "env.task.rooms=1"]).plain()["env"]


def test_nothing_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_THING", "opened")
    values = saved()
    values["env"] = {**values["env"], "config": "${oc.env:SECRET_THING}", "task": None}
    assert changed(values=values)["env"]["config"] == "${oc.env:SECRET_THING}"
    assert changed("env.config='${oc.env:SECRET_THING}'")["env"]["config"] == "${oc.env:SECRET_THING}"
    values = saved()
    values["env"]["task"] = {"_target_": "os.system", "name": "forage"}
    with pytest.raises(ConfigError, match="_target_"):
        changed(values=values)


def test_keys_that_a_run_of_an_older_version_lacks_take_their_usual_value() -> None:
    values = saved("env.step_timeout=7.5")
    del values["env"]["restart_budget"], values["trainer"]["update_epochs"]
    told = changed(values=values)
    assert told["env"]["restart_budget"] == 0 and told["env"]["step_timeout"] == 7.5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("env.max_step=50", "did you mean env.max_steps?"),
        ("env.max_steps=many", "env.max_steps=many: needs"),
        ("env.max_steps=1,2", "needs the form env.key=value"),
        ("~env.task", "needs the form env.key=value"),
        ("env.max_steps=[", "not understood"),
        ("env=aren", "did you mean arena?"),
        ("env=arena,forage", "env=arena,forage"),
        ("seed=3", "an evaluation changes the environment alone"),
        ("env.task.rooms.x=3", "unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_key(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as told:
        changed(override)
    assert said in str(told.value) and len(str(told.value).splitlines()) == 1


def test_suites_of_the_user_come_first(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    own = tmp_path / "eval" / "forage.yaml"
    own.write_text("episodes: 3\nseed: 9\nenvironments: {short: [env=forage, env.max_steps=10]}\n")
    source = ConfigSource(conf_folder(), extra_folder=tmp_path)
    assert load_suite("forage", source).environments == {"short": ["env=forage", "env.max_steps=10"]}
    assert load_suite("arena", source) == load_suite("arena", SOURCE)
    own.write_text("episodes: 3\nsed: 9\nenvironments: {a: [env=forage]}\n")
    with pytest.raises(ConfigError, match="did you mean seed"):
        load_suite("forage", source)
    own.write_text("episodes: 3\nseed: 9\nenvironments: {a: [trainer=smoke]}\n")
    with pytest.raises(ConfigError, match="the environment alone"):
        load_suite("forage", source)
    with pytest.raises(ConfigError, match=r"--suite aren: needs one of arena, forage; did you mean arena\?"):
        load_suite("aren", SOURCE)
