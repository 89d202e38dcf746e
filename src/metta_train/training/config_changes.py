"""What differs between two configurations of a run, and what of it would make another run of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

RESUME_FIXED_KEYS = ("agent", "py_agent", "env")
# With another seed or optimizer the run would not be the one that these keys describe.
_FIXED_VALUES = ("seed", "trainer.optimizer.type")
# What may change though its group may not: it decides neither what the weights mean nor what they see.
_FREE_VALUES = frozenset(
    {
        *(f"env.{name}" for name in ("start_timeout", "step_timeout", "restart_budget")),
        *(f"{group}.{name}" for group in ("agent", "py_agent") for name in ("analyze_weights_interval", "clip_range")),
    }
)
_LISTED_CHANGES = 12  # another environment differs in a hundred keys
_ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One key whose value differs between two configurations; "(absent)" where it has none."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def config_changes(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[ConfigChange, ...]:
    """The dotted keys whose values differ, sorted. Lists are compared as a whole; 1 and 1.0 are equal."""
    old_values, new_values = dict(_flatten(old)), dict(_flatten(new))
    keys = sorted(old_values.keys() | new_values.keys())
    return tuple(
        ConfigChange(key, _shown(old_values, key), _shown(new_values, key))
        for key in keys
        if key not in old_values or key not in new_values or not _equal(old_values[key], new_values[key])
    )


def check_config_changes(run: str, changes: Sequence[ConfigChange]) -> None:
    """Refuse changes under which saved weights would mean something else: agent, py_agent and env.

    A change of kind, from a whole `agent` to a whole `py_agent` or back, passes: both may be the same network, which
    `training/parity/same_network.py` finds out when the run goes on.

    Raises:
        ValueError: with one line per refused change.
    """
    fixed = ("env",) if _changes_kind_of_agent(changes) else RESUME_FIXED_KEYS
    refused = [
        change
        for change in changes
        if change.key in _FIXED_VALUES or (change.key.split(".")[0] in fixed and change.key not in _FREE_VALUES)
    ]
    if refused:
        listed = "".join(f"\n  {change}" for change in refused[:_LISTED_CHANGES])
        if len(refused) > _LISTED_CHANGES:
            listed += f"\n  and {len(refused) - _LISTED_CHANGES} more"
        raise ValueError(
            f"run={run!r} cannot go on with other values of these keys:{listed}\n"
            "Give the old values to continue that run. To start afresh: another run name, restart=new, "
            "or restart=overwrite, which deletes what is there."
        )


def _changes_kind_of_agent(changes: Sequence[ConfigChange]) -> bool:
    groups = {
        name: [change for change in changes if change.key.split(".")[0] == name] for name in ("agent", "py_agent")
    }
    return any(
        all(change.new == _ABSENT for change in groups[before])
        and all(change.old == _ABSENT for change in groups[after])
        for before, after in (("agent", "py_agent"), ("py_agent", "agent"))
        if groups[before] and groups[after]
    )


def _flatten(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    values: list[tuple[str, object]] = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            values.extend(_flatten(cast("Mapping[str, object]", value), f"{name}."))
        else:
            values.append((name, value))
    return values


def _equal(old: object, new: object) -> bool:
    if isinstance(old, bool) != isinstance(new, bool):
        return False
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(_equal(a, b) for a, b in zip(old, new, strict=True))
    return old == new


def _shown(values: Mapping[str, object], key: str) -> str:
    return json.dumps(values[key], default=str) if key in values else _ABSENT
