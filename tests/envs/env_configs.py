"""Env configs of conf/env, with changes."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import TypeAdapter

from metta_train.envs.config import EnvConfig

CONF = Path(__file__).parents[2] / "conf" / "env"


def env_config(name: str, changes: dict[str, object] | None = None) -> EnvConfig:
    """The config of conf/env/<name>.yaml; a change's key may be dotted, as on the command line."""
    data = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        node = data
        for parent in parents:
            node = node[parent]
        node[last] = value
    return TypeAdapter(EnvConfig).validate_python(data)


def tiny_forage(changes: dict[str, object] | None = None) -> EnvConfig:
    """Two rooms, four agents, episodes of 7 steps."""
    small = {"task.rooms": 2, "task.agents_per_room": 2, "task.room_size": 4, "task.max_steps": 7}
    return env_config("forage", {**small, **(changes or {})})
