"""Which environment a config describes."""

from __future__ import annotations

from collections.abc import Callable

from metta_train.envs.config import EnvConfig, MettaGridEnvConfig
from metta_train.envs.environment import Environment
from metta_train.specs.environment_spec import EnvironmentSpec


def environment_factory(config: EnvConfig) -> tuple[EnvironmentSpec, Callable[[], Environment]]:
    """The spec, and a function that makes environments of it."""
    # A backend is imported when it is used: a Gymnasium run does not load MettaGrid.
    if isinstance(config, MettaGridEnvConfig):
        from metta_train.envs.mettagrid import MettaGridEnvironment, load_game

        game = load_game(config)
        return game.spec, lambda: MettaGridEnvironment(game)
    from metta_train.envs.gymnasium import GymnasiumEnvironment

    probe = GymnasiumEnvironment(config)
    probe.close()
    return probe.spec, lambda: GymnasiumEnvironment(config)
