"""A Gymnasium environment as an `Environment` with one agent."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium
import numpy as np
from numpy.typing import NDArray

from metta_train.envs.config import GymnasiumEnvConfig
from metta_train.envs.environment import EnvBuffers, Environment
from metta_train.specs.action_table import ActionTable
from metta_train.specs.config_errors import nearest_choice
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec
from metta_train.specs.random_streams import derived_seed

PICTURES = "rgb_array"  # the render mode
MAX_SEED = 2**31  # what every environment takes; larger seeds are folded


class GymnasiumEnvironment(Environment):
    """Termination and truncation stay apart, as the environment reports them.

    float64 observations are handed on as float32, the type of the policies' weights.

    Args:
        config: of the environment.
        draws: made so that `picture` works.

    Raises:
        ValueError: an unknown id, arguments that the environment refuses, or spaces other than Box and Discrete; an
            environment that draws no pictures, if it shall.
    """

    def __init__(self, config: GymnasiumEnvConfig, *, draws: bool = False) -> None:
        self._env = _make(config, draws=draws)
        self._spec = _spec_of(config, self._env)
        actions = self._env.action_space
        assert isinstance(actions, gymnasium.spaces.Discrete)
        self._first_action = int(actions.start)
        self._buffers: EnvBuffers | None = None

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    @property
    def can_replay(self) -> bool:
        return self._env.spec is not None and not self._env.spec.nondeterministic  # as its author registered it

    @property
    def episode_limit(self) -> int | None:
        return None if self._env.spec is None else self._env.spec.max_episode_steps

    def bind(self, buffers: EnvBuffers) -> None:
        self._buffers = buffers

    def reset(self, seed: int) -> None:
        observation, _ = self._env.reset(seed=derived_seed(seed, "gymnasium") % MAX_SEED)
        self._write(observation, reward=0.0, terminated=False, truncated=False)

    def step(self, actions: NDArray[np.int32]) -> None:
        observation, reward, terminated, truncated, _ = self._env.step(np.int64(self._first_action + actions[0]))
        self._write(observation, reward=float(reward), terminated=terminated, truncated=truncated)

    def _write(self, observation: object, *, reward: float, terminated: bool, truncated: bool) -> None:
        buffers = self._buffers
        assert buffers is not None, "bind comes first"
        buffers.observations[0] = np.asarray(observation)
        buffers.rewards[0] = reward
        buffers.terminations[0] = terminated
        buffers.truncations[0] = truncated

    def picture(self) -> NDArray[np.uint8]:
        """The environment's own picture [height, width, 3] of the present step. Raises ValueError without one."""
        name = "" if self._env.spec is None else self._env.spec.id
        try:
            pixels = np.asarray(self._env.render())
        except gymnasium.error.DependencyNotInstalled as error:
            raise ValueError(f"env.id={name}: drawing needs a package that is not installed: {error}") from None
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"env.id={name}: draws an array of shape {list(pixels.shape)}, needs [height, width, 3]")
        return pixels.astype(np.uint8, copy=False)

    def episode_stats(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        self._env.close()


def _make(config: GymnasiumEnvConfig, *, draws: bool) -> gymnasium.Env[object, np.int64]:
    env = _made(config, config.kwargs)
    if not draws:
        return env
    modes = env.metadata.get("render_modes", [])
    env.close()
    if PICTURES not in modes:
        raise ValueError(f"env.id={config.id}: draws no pictures; it has no render mode {PICTURES!r}")
    return _made(config, {**config.kwargs, "render_mode": PICTURES})


def _made(config: GymnasiumEnvConfig, arguments: Mapping[str, object]) -> gymnasium.Env[object, np.int64]:
    try:
        return gymnasium.make(config.id, max_episode_steps=config.max_steps, disable_env_checker=True, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"env.id={config.id}: a package that it needs is not installed: {error}") from None
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = nearest_choice(config.id, list(gymnasium.registry))
        raise ValueError(
            f"env.id: got {config.id!r}, which Gymnasium does not know ({str(error).rstrip('.')}){near}"
        ) from None
    except TypeError as error:
        raise ValueError(f"env.kwargs: {config.id} does not take {dict(arguments)}: {error}") from None


def _spec_of(config: GymnasiumEnvConfig, env: gymnasium.Env[object, np.int64]) -> EnvironmentSpec:
    observations, actions = env.observation_space, env.action_space
    if not isinstance(observations, gymnasium.spaces.Box):
        raise ValueError(f"env.id={config.id}: observation space must be a Box, got {observations}")
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise ValueError(f"env.id={config.id}: action space must be Discrete, got {actions}")
    dtype = "float32" if observations.dtype == np.float64 else np.dtype(observations.dtype).name
    return EnvironmentSpec(
        name=config.id,
        num_agents=1,
        observation=BoxObservation(shape=observations.shape, dtype=dtype),
        actions=ActionTable.discrete([f"action_{index}" for index in range(int(actions.n))]),
    )
