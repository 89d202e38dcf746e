"""From an env config to environments."""

from __future__ import annotations

from collections.abc import Callable

from metta_train.envs.config import EnvConfig, GymnasiumEnvConfig, MettaGridEnvConfig
from metta_train.envs.environment import Environment
from metta_train.envs.factory import environment_factory
from metta_train.envs.in_process import InProcessVectorEnv
from metta_train.envs.stage import PlainStage, Stage
from metta_train.envs.vector import ResumableVectorEnv
from metta_train.envs.workers import WorkerVectorEnv
from metta_train.specs.environment_spec import EnvironmentSpec


def environment_spec(config: EnvConfig) -> EnvironmentSpec:
    """What policies may know of the environment. Raises ValueError when the config describes none that works."""
    return environment_factory(config)[0]


def make_environment(config: EnvConfig) -> Environment:
    """One environment instance."""
    return environment_factory(config)[1]()


def make_stage(config: EnvConfig, *, pictures: bool = False) -> Stage:
    """One environment to be watched; `pictures` asks for those that it draws itself. Raises ValueError as above."""
    if isinstance(config, MettaGridEnvConfig):
        from metta_train.envs.mettagrid import load_game
        from metta_train.envs.mettagrid_stage import MettaGridStage

        return MettaGridStage(load_game(config))
    if isinstance(config, GymnasiumEnvConfig):
        from metta_train.envs.gymnasium_stage import GymnasiumStage

        return GymnasiumStage(config, pictures=pictures)
    if pictures:
        raise ValueError(f"env.type={config.type}: such an environment draws no pictures for us")
    return PlainStage(make_environment(config))


def make_vector_env(
    config: EnvConfig,
    *,
    num_envs: int,
    num_workers: int,
    num_slices: int,
    seed: int,
    rank: int = 0,
    check: Callable[[], None] = lambda: None,
) -> ResumableVectorEnv:
    """All environments of one trainer; `num_workers` 0 steps them in this process.

    Args:
        config: the environment.
        num_envs: how many of it.
        num_workers: processes that step them.
        num_slices: groups that are in flight together.
        seed: of the run.
        rank: of the trainer.
        check: called a few times a second while waiting for workers; what it raises ends the wait.

    Raises:
        ValueError: numbers that do not fit together.
    """
    if num_envs < 1 or num_slices < 1 or num_envs % num_slices:
        raise ValueError(
            f"trainer.num_envs={num_envs} cannot be split into trainer.async_factor={num_slices} equal slices; "
            f"set num_envs to a multiple of {num_slices}"
        )
    if not 0 <= num_workers <= num_envs:
        raise ValueError(
            f"trainer.num_workers={num_workers} for trainer.num_envs={num_envs}; set num_workers to 0..{num_envs}"
        )
    spec, make = environment_factory(config)
    if num_workers == 0:
        return InProcessVectorEnv(
            spec,
            make,
            num_envs=num_envs,
            num_slices=num_slices,
            seed=seed,
            rank=rank,
            desync_episodes=config.desync_episodes,
        )
    return WorkerVectorEnv(
        spec,
        config,
        num_envs=num_envs,
        num_workers=num_workers,
        num_slices=num_slices,
        seed=seed,
        rank=rank,
        check=check,
    )
