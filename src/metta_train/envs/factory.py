"""Which environment a config describes."""

from __future__ import annotations

from collections.abc import Callable

from metta_train.envs.config import EnvConfig, MettaGridEnvConfig, PettingZooEnvConfig, PluginEnvConfig
from metta_train.envs.environment import Environment
from metta_train.specs.environment_spec import EnvironmentSpec


def environment_factory(config: EnvConfig) -> tuple[EnvironmentSpec, Callable[[], Environment]]:
    """The spec, and a function that makes environments of it."""
    # A backend is imported when it is used: a Gymnasium run does not load MettaGrid.
    if isinstance(config, MettaGridEnvConfig):
        from metta_train.envs.mettagrid import MettaGridEnvironment, load_game

        game = load_game(config)
        return game.spec, lambda: MettaGridEnvironment(game)
    if isinstance(config, PluginEnvConfig):
        from metta_train.envs.own_environment import own_environment_factory

        return _probed(own_environment_factory(config))
    if isinstance(config, PettingZooEnvConfig):
        from metta_train.envs.pettingzoo import PettingZooEnvironment

        return _probed(lambda: PettingZooEnvironment(config))
    from metta_train.envs.gymnasium import GymnasiumEnvironment

    return _probed(lambda: GymnasiumEnvironment(config))


def _probed(make: Callable[[], Environment]) -> tuple[EnvironmentSpec, Callable[[], Environment]]:
    """With the spec of one that is made and closed again."""
    probe = make()
    probe.close()
    return probe.spec, make
