"""What may change when a run goes on."""

from __future__ import annotations

import pytest

from metta_train.training.config_changes import ConfigChange, check_config_changes, config_changes


def test_config_changes_by_hand() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": {}, "same": 1, "flag": True}
    new = {"a": 2, "b": {"c": [1, 3], "d": "x"}, "come": None, "same": 1.0, "flag": 1}
    assert config_changes(old, new) == (
        ConfigChange("a", "1", "2"),
        ConfigChange("b.c", "[1, 2]", "[1, 3]"),
        ConfigChange("come", "(absent)", "null"),
        ConfigChange("flag", "true", "1"),
        ConfigChange("gone", "{}", "(absent)"),
    )


def test_py_agent_is_refused_and_a_key_that_only_begins_like_one_is_not() -> None:
    with pytest.raises(ValueError, match="py_agent"):
        check_config_changes("a", [ConfigChange("py_agent", "null", '"fast"')])
    check_config_changes("a", [ConfigChange("environment_notes", "1", "2"), ConfigChange("seeds", "1", "2")])


@pytest.mark.parametrize("key", ["seed", "trainer.optimizer.type"])
def test_single_values_that_a_run_keeps(key: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){key}: 1 -> 2.*restart=new"):
        check_config_changes("a", [ConfigChange(key, "1", "2")])


def test_what_may_change() -> None:
    keys = ("env.step_timeout", "env.restart_budget", "agent.clip_range", "py_agent.analyze_weights_interval")
    rest = ("trainer.optimizer.learning_rate", "trainer.total_timesteps", "trainer.checkpoint.checkpoint_interval")
    check_config_changes("a", [ConfigChange(key, "1", "2") for key in (*keys, *rest)])


def test_a_whole_agent_may_take_the_place_of_a_whole_py_agent() -> None:
    """Whether it is the same network is found out by training/parity/same_network.py."""
    to_py = [
        ConfigChange("agent.clip_range", "0", "(absent)"),
        ConfigChange("agent.components.box.class", '"ObsTokenToBox"', "(absent)"),
        ConfigChange("py_agent.agent_type", "(absent)", '"fast"'),
    ]
    check_config_changes("a", to_py)
    check_config_changes("a", [ConfigChange(change.key, change.new, change.old) for change in to_py])
    with pytest.raises(ValueError, match=r"env\.max_steps"):
        check_config_changes("a", [*to_py, ConfigChange("env.max_steps", "1", "2")])
    with pytest.raises(ValueError, match=r"agent\.components"):
        check_config_changes("a", [*to_py[1:], ConfigChange("agent.clip_range", "0", "1")])
    with pytest.raises(ValueError, match=r"py_agent\.core"):
        check_config_changes("a", [ConfigChange("py_agent.core.bias_init", '"forget"', '"ones"')])


def test_of_many_refused_changes_some_are_listed() -> None:
    changes = [ConfigChange(f"env.task.key{number:02}", "1", "2") for number in range(15)]
    with pytest.raises(ValueError, match=r"env.task.key11: 1 -> 2\n  and 3 more\nGive the old values"):
        check_config_changes("a", changes)
