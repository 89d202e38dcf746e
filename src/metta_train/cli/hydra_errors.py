"""Hydra's complaints as one line: key, what it got, what exists, the nearest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from metta_train.run_config import takes_new_keys
from metta_train.specs.config_errors import dotted_keys, nearest_choice, nearest_key, shown, unknown_key


@dataclass(frozen=True, slots=True)
class Known:
    """What exists: for suggestions."""

    groups: Mapping[str, Sequence[str]]  # group -> its options
    tree: Mapping[str, Any]  # a composition without the overrides that fail
    choices: Mapping[str, Any]


def explain(error: Exception, overrides: Sequence[str], known: Known) -> str:
    """The line for a failed composition of `overrides`."""
    match error:
        case MissingConfigException():
            return _missing(error, known)
        case OverrideParseException():
            return malformed(error.override)
        case OmegaConfBaseException():
            return f"{error.full_key or 'config'}: {_first_line(error)}"
    text = str(error)
    if isinstance(error, ConfigCompositionException):
        if quoted := re.match(r"Could not override '(.+?)'\.", text):
            return _not_there(quoted[1], overrides, known)
        if quoted := re.match(r"Could not delete from config\. '(.+?)' does not exist", text):
            return f"~{quoted[1]}: {unknown_key(quoted[1], _keys(known))}"
        if quoted := re.match(r"Could not append to config\. An item is already at '(.+?)'", text):
            return f"{_override_of(quoted[1], overrides)}: the key exists; leave the + out"
        if quoted := re.match(r"Ambiguous value for argument '(.+?)'", text):
            key, _, value = quoted[1].partition("=")
            return (
                f"{quoted[1]}: several values for one run; -m makes a run for each, "
                f"quotes make them one text: \"{key}='{value}'\""
            )
    if text.startswith("Error resolving interpolation"):
        for override in overrides:
            if override.startswith("~") and override[1:] in known.groups:
                options = known.groups[override[1:]]
                return f"{override}: a run needs a choice for each group; {override[1:]} has {', '.join(options)}"
    if "Config group override must be" in text:
        for override in overrides:
            key, _, value = override.lstrip("+").partition("=")
            options = known.groups.get(key)
            if options is not None and value not in options:
                return f"{override}: needs one of {', '.join(options)}{nearest_choice(value, options)}"
            if not key:
                return malformed(override)
    return _first_line(error)


def _missing(error: MissingConfigException, known: Known) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"--config-name {option}: no such configuration"
    options = list(error.options or known.groups.get(group, ()))
    if not options:
        return f"{group}={option}: there is no group {group}"
    return f"{group}={option}: needs one of {', '.join(options)}{nearest_choice(option, options)}"


def malformed(override: str) -> str:
    """The line for an override that Hydra's grammar refuses."""
    if "=" not in override and not override.startswith("~"):
        return f"{override}: needs the form key=value"
    key, _, value = override.partition("=")
    if not key.strip("+~ "):
        return f"{override}: needs a key in front of the ="
    return f"{override}: the value is not understood; put a text with special characters in quotes: \"{key}='{value}'\""


def _not_there(key: str, overrides: Sequence[str], known: Known) -> str:
    override = _override_of(key, overrides)
    top = key.partition(".")[0]
    if top in ("agent", "py_agent") and "." in key and known.tree.get(top) is None:
        other = "py_agent" if top == "agent" else "agent"
        near = nearest_key(f"{other}.{key.partition('.')[2]}", [k for k in _keys(known) if k.startswith(other)])
        hint = f"; did you mean {near}?" if near else ""
        return f"{override}: {other}={known.choices.get(other)} is chosen, so {top} has no keys{hint}"
    keys = _keys(known)
    if takes_new_keys(key, known.tree):
        parent, _, name = key.rpartition(".")
        near = nearest_key(name, [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == parent])
        advice = f"did you mean {parent}.{near}?" if near else f"+{override} adds it"
        return f"{override}: no such key here yet; {advice}"
    return f"{override}: {unknown_key(key, keys)}"


def _keys(known: Known) -> list[str]:
    groups = [group for group in known.groups if not group.startswith("hydra")]
    return list(dict.fromkeys([*groups, *dotted_keys(known.tree)]))


def _override_of(key: str, overrides: Sequence[str]) -> str:
    """The word on the command line that has this key."""
    fitting = [o for o in overrides if o.lstrip("+~").partition("=")[0] == key]
    return fitting[-1] if fitting else key


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return shown(lines[0]) if not lines else lines[0]
