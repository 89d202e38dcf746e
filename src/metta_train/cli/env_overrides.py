"""The environment of an evaluation: a saved one with overrides, or one that Hydra composes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from metta_train.cli.compose import ConfigSource, compose, resolved, run_config
from metta_train.cli.hydra_errors import malformed
from metta_train.cli.suites import refuse_other_keys
from metta_train.run_config import RunConfig, takes_new_keys
from metta_train.specs.config_errors import ConfigError, dotted_keys, unknown_key

# Each has a file of this name in conf/env/ with all its keys.
ENV_TYPES = ("mettagrid", "gymnasium", "pettingzoo", "plugin")

_TAKEN = ("agent", "py_agent", "env", "device", "seed")  # of a saved configuration


def with_env_overrides(saved: Mapping[str, Any], overrides: Sequence[str], source: ConfigSource, run: str) -> RunConfig:
    """What an evaluation needs of a run's configuration: its agent, its device, and an environment.

    config.yaml is data: nothing in it is interpolated or instantiated. Keys that a newer version of metta-train has
    given to environments take their usual value.

    Args:
        saved: config.yaml as plain data.
        overrides: of `env` and its keys alone. `env=NAME` takes that environment as metta-train composes it; without
            it the keys change the run's own environment.
        source: where `env=NAME` is looked up.
        run: its name.

    Raises:
        ConfigError: an override that is malformed, of another key, or does not fit.
    """
    refuse_other_keys(overrides)
    values: dict[str, Any] = {**resolved(compose([], source)), "run": run, "agent": None, "py_agent": None}
    values |= {key: copy.deepcopy(saved[key]) for key in _TAKEN if key in saved}
    if any(override.partition("=")[0] == "env" for override in overrides):
        values["env"] = run_config(compose(overrides, source)).plain()["env"]
    else:
        values["env"] = _completed(values["env"], source)
        for override in overrides:
            _apply(values, override)
    return RunConfig.from_tree(values, run)


def _completed(env: Any, source: ConfigSource) -> Any:  # noqa: ANN401  # plain data, not yet validated
    kind = env.get("type") if isinstance(env, dict) else None
    if kind not in ENV_TYPES:
        return env  # validation tells what is wrong with it
    return {**resolved(compose([f"env={kind}"], source))["env"], **env}


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one key of plain data, as Hydra's grammar reads it."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(malformed(override)) from error
    if parsed.is_delete() or parsed.is_sweep_override() or "=" not in override:
        raise ConfigError(f"{override}: needs the form env.key=value")
    adds = parsed.is_add() or takes_new_keys(parsed.key_or_group, values)
    *parents, last = parsed.key_or_group.split(".")
    node: Any = values
    for part in parents:
        if isinstance(node, dict) and adds:
            node.setdefault(part, {})
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or (last not in node and not adds):
        raise ConfigError(f"{override}: {unknown_key(parsed.key_or_group, dotted_keys(values))}")
    # OmegaConf turns Hydra's quoted strings and nested values into plain ones; interpolations stay texts.
    holder = OmegaConf.create({"value": parsed.value()})
    value = OmegaConf.to_container(holder, resolve=False)
    assert isinstance(value, dict)
    old = node.get(last)
    merged = value["value"]
    node[last] = {**old, **merged} if isinstance(old, dict) and isinstance(merged, dict) else merged
