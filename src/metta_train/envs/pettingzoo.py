"""A PettingZoo parallel environment as an `Environment`.

Rows are agents and are fixed: those of `possible_agents`, in that order. The agents of one `Environment` end their
episodes together, those of PettingZoo need not:

An agent that terminates before the others stays as a spectator: it sees zeros, earns nothing and its actions go
nowhere, until the episode of all ends, which is a termination for it. What it earned before is valued as it should be,
because the value of that state is learned to be zero. An agent that is absent is a spectator, too. An agent that is
truncated while others go on ends the episode for all: a truncation for those who were alive, whose last observations
then stand for the future that was cut off.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from metta_train.envs.config import PettingZooEnvConfig
from metta_train.envs.environment import EnvBuffers, Environment
from metta_train.specs.action_table import ActionTable
from metta_train.specs.config_errors import nearest_choice
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec
from metta_train.specs.random_streams import derived_seed

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

MAX_SEED = 2**31
MAKER = "parallel_env"  # the function that every module of PettingZoo has for this interface


class PettingZooEnvironment(Environment):
    """All agents need the same Box of observations and the same Discrete actions.

    Raises:
        ValueError: an unknown id, arguments that the environment refuses, or agents or spaces of another kind.
    """

    def __init__(self, config: PettingZooEnvConfig) -> None:
        self._env = _make(config)
        self._agents = _fixed_agents(config, self._env)
        self._spec = _spec_of(config, self._env, self._agents)
        actions = self._env.action_space(self._agents[0])
        assert isinstance(actions, gymnasium.spaces.Discrete)
        self._first_action = int(actions.start)
        self._limit = config.max_steps
        self._steps = 0
        self._buffers: EnvBuffers | None = None
        self._terminated = np.zeros(len(self._agents), np.bool_)

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    @property
    def can_replay(self) -> bool:
        """Seed and actions decide a PettingZoo episode; who plays it again compares what it shows."""
        return True

    @property
    def episode_limit(self) -> int | None:
        return self._limit

    def bind(self, buffers: EnvBuffers) -> None:
        self._buffers = buffers

    def reset(self, seed: int) -> None:
        observations, _ = self._env.reset(seed=derived_seed(seed, "pettingzoo") % MAX_SEED)
        self._steps = 0
        self._terminated.fill(False)
        self._write(observations, {})

    def step(self, actions: NDArray[np.int32]) -> None:
        index = {agent: number for number, agent in enumerate(self._agents)}
        playing = list(self._env.agents)
        chosen = {agent: np.int64(self._first_action + actions[index[agent]]) for agent in playing}
        observations, rewards, terminations, truncations, _ = self._env.step(chosen)
        self._steps += 1
        self._write(observations, rewards)
        for agent in playing:
            self._terminated[index[agent]] |= bool(terminations.get(agent, False))
        cut = any(truncations.get(agent, False) for agent in playing) or self._steps == self._limit
        if cut or not self._env.agents:
            absent = np.array([agent not in chosen for agent in self._agents])
            buffers = self._bound()
            buffers.terminations[:] = self._terminated | absent
            buffers.truncations[:] = ~buffers.terminations

    def _write(self, observations: Mapping[Any, Any], rewards: Mapping[Any, float]) -> None:
        buffers = self._bound()
        for number, agent in enumerate(self._agents):
            seen = observations.get(agent)
            # An agent is shown what it sees in the step that ends its episode; after that it sees nothing.
            buffers.observations[number] = 0 if seen is None or self._terminated[number] else np.asarray(seen)
            buffers.rewards[number] = 0.0 if self._terminated[number] else float(rewards.get(agent, 0.0))
        buffers.terminations.fill(False)
        buffers.truncations.fill(False)

    def _bound(self) -> EnvBuffers:
        assert self._buffers is not None, "bind comes first"
        return self._buffers

    def episode_stats(self) -> Mapping[str, float]:
        """How many of the agents had terminated; the rest was cut off."""
        return {"terminated_agents": float(self._terminated.sum())}

    def close(self) -> None:
        self._env.close()


def _make(config: PettingZooEnvConfig) -> ParallelEnv[Any, Any, Any]:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets on standard output
    assert config.id is not None, "the config model sees to it"
    maker = _maker(config.id)
    try:
        return maker(**config.kwargs)
    except TypeError as error:
        raise ValueError(f"env.kwargs: {config.id} does not take {dict(config.kwargs)}: {error}") from None


def _maker(name: str) -> Callable[..., ParallelEnv[Any, Any, Any]]:
    """`sisl/pursuit_v5` of PettingZoo itself, `mpe2.simple_spread_v3`, or `package.module:function`."""
    try:
        importlib.import_module("pettingzoo")
    except ModuleNotFoundError:
        raise ValueError(
            'env=pettingzoo: needs the package pettingzoo: pip install "metta-train[pettingzoo]"'
        ) from None
    path, _, function = name.partition(":")
    module_name = f"pettingzoo.{path.replace('/', '.')}" if "/" in path else path
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise ValueError(f"env.id: got {name!r}, and there is no module {module_name}{_nearest(name)}") from None
        raise ValueError(
            f"env.id={name}: a package that it needs is not installed: {error}; try pip install {missing.split('.')[0]}"
        ) from None
    except ImportError as error:
        raise ValueError(f"env.id={name}: cannot be imported: {error}") from None
    maker = vars(module).get(function or MAKER)
    if not callable(maker):
        raise ValueError(f"env.id={name}: {module_name} has no {function or MAKER}; it is no parallel environment")
    return cast("Callable[..., ParallelEnv[Any, Any, Any]]", maker)


def _nearest(name: str) -> str:
    """The nearest of PettingZoo's own, which are found without importing them."""
    package = importlib.import_module("pettingzoo")
    known = [
        f"{family.name}/{module.name}"
        for family in pkgutil.iter_modules(package.__path__)
        if family.ispkg
        for module in pkgutil.iter_modules([f"{path}/{family.name}" for path in package.__path__])
        if "_v" in module.name
    ]
    return nearest_choice(name, known) or f"; PettingZoo has {', '.join(known)}"


def _fixed_agents(config: PettingZooEnvConfig, env: ParallelEnv[Any, Any, Any]) -> tuple[Any, ...]:
    try:
        agents = tuple(env.possible_agents)
    except AttributeError:
        raise ValueError(
            f"env.id={config.id}: has no possible_agents; the number of agents must be known before the first episode"
        ) from None
    if not agents:
        raise ValueError(f"env.id={config.id}: has no agents")
    return agents


def _spec_of(config: PettingZooEnvConfig, env: ParallelEnv[Any, Any, Any], agents: tuple[Any, ...]) -> EnvironmentSpec:
    observations, actions = env.observation_space(agents[0]), env.action_space(agents[0])
    if not isinstance(observations, gymnasium.spaces.Box):
        raise ValueError(f"env.id={config.id}: observation spaces must be Boxes, got {observations}")
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise ValueError(f"env.id={config.id}: action spaces must be Discrete, got {actions}")
    for agent in agents[1:]:
        for what, first, own in (
            ("observations", observations, env.observation_space(agent)),
            ("actions", actions, env.action_space(agent)),
        ):
            same = own.shape == first.shape and own.dtype == first.dtype
            if not same or (what == "actions" and own != first):
                raise ValueError(
                    f"env.id={config.id}: one policy plays all agents, so their {what} must be alike: "
                    f"{agents[0]} has {first}, {agent} has {own}; pad them with a wrapper"
                )
    dtype = "float32" if observations.dtype == np.float64 else np.dtype(observations.dtype).name
    return EnvironmentSpec(
        name=str(config.id),
        num_agents=len(agents),
        observation=BoxObservation(shape=observations.shape, dtype=dtype),
        actions=ActionTable.discrete([f"action_{number}" for number in range(int(actions.n))]),
    )
