"""What MettaGrid itself tells policies about a game; bundles carry it, and the names behind numbers."""

from __future__ import annotations

from dataclasses import dataclass

from mettagrid.policy.policy_env_interface import PolicyEnvInterface

from metta_train.envs.config import MettaGridEnvConfig
from metta_train.envs.mettagrid import load_game


@dataclass(frozen=True, slots=True)
class MettaGridInterface:
    """MettaGrid's PolicyEnvInterface of a game.

    Attributes:
        document: all of it, as JSON.
        value_names: by feature, the names of those values that are indices of something with names.
    """

    document: str
    value_names: dict[str, tuple[str, ...]]


def mettagrid_interface(config: MettaGridEnvConfig) -> MettaGridInterface:
    """Of an environment's game. Raises ValueError as `load_game`."""
    interface = PolicyEnvInterface.from_mg_cfg(load_game(config).config)
    names = {"tag": tuple(interface.tags), "last_action": tuple(interface.all_action_names)}
    return MettaGridInterface(interface.model_dump_json(), names)
