"""metta-train: recurrent policies trained with PPO on MettaGrid and Gymnasium environments.

The public names below load their modules when they are first used; importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metta_train.assembly.policy import build_policy as build_policy
    from metta_train.assembly.run import train as train
    from metta_train.cli.compose import load_config as load_config
    from metta_train.specs.action_table import ActionTable as ActionTable
    from metta_train.specs.environment_spec import EnvironmentSpec as EnvironmentSpec
    from metta_train.specs.environment_spec import Feature as Feature
    from metta_train.specs.environment_spec import TokenObservation as TokenObservation
    from metta_train.training.stopping import StopRequest as StopRequest
    from metta_train.training.stopping import StopRequested as StopRequested

_HOMES = {
    "ActionTable": "metta_train.specs.action_table",
    "EnvironmentSpec": "metta_train.specs.environment_spec",
    "Feature": "metta_train.specs.environment_spec",
    "StopRequest": "metta_train.training.stopping",
    "StopRequested": "metta_train.training.stopping",
    "TokenObservation": "metta_train.specs.environment_spec",
    "build_policy": "metta_train.assembly.policy",
    "load_config": "metta_train.cli.compose",
    "train": "metta_train.assembly.run",
}

__all__ = [
    "ActionTable",
    "EnvironmentSpec",
    "Feature",
    "StopRequest",
    "StopRequested",
    "TokenObservation",
    "build_policy",
    "load_config",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = import_module(_HOMES[name]).__dict__[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
