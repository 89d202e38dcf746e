"""PettingZoo parallel environments in which agents leave at known steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Leaving(ParallelEnv[str, np.ndarray, np.int64]):
    """Agent k shows (step, k + 1) and earns its action; it terminates or is truncated at the step that is given for it.

    Args:
        terminations: agent -> step.
        truncations: agent -> step.
        absent: agents that are never there.
        wide: agents whose observations are of another shape.
        start: the first action.
    """

    metadata: dict[str, Any] = {"name": "leaving_v0"}  # noqa: RUF012  # as PettingZoo declares it

    def __init__(
        self,
        num: int = 3,
        terminations: Mapping[str, int] | None = None,
        truncations: Mapping[str, int] | None = None,
        absent: tuple[str, ...] | list[str] = (),
        wide: tuple[str, ...] | list[str] = (),
        start: int = 0,
    ) -> None:
        self.possible_agents = [f"agent_{index}" for index in range(num)]
        self.agents: list[str] = []
        self._terminations = dict(terminations or {})
        self._truncations = dict(truncations or {})
        self._absent = tuple(absent)
        self._wide = tuple(wide)
        self._start = start
        self._steps = 0
        self._offset = 0

    def observation_space(self, agent: str) -> spaces.Space[np.ndarray]:
        return spaces.Box(0.0, 1e9, (3 if agent in self._wide else 2,), np.float64)

    def action_space(self, agent: str) -> spaces.Space[np.int64]:
        return spaces.Discrete(4, start=self._start)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        assert seed is not None
        self._steps, self._offset = 0, seed % 1000
        self.agents = [agent for agent in self.possible_agents if agent not in self._absent]
        return self._shown(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, np.int64]) -> tuple[Any, ...]:
        assert list(actions) == self.agents, "only agents that are there may act"
        assert all(self.action_space(agent).contains(action) for agent, action in actions.items())
        self._steps += 1
        shown = self._shown()
        rewards = {agent: float(action) for agent, action in actions.items()}
        terminated = {agent: self._terminations.get(agent) == self._steps for agent in self.agents}
        truncated = {agent: self._truncations.get(agent) == self._steps for agent in self.agents}
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not terminated[agent] and not truncated[agent]]
        return shown, rewards, terminated, truncated, infos

    def _shown(self) -> dict[str, np.ndarray]:
        return {
            agent: np.array([self._steps + self._offset, self.possible_agents.index(agent) + 1], np.float64)
            for agent in self.agents
        }


def parallel_env(**settings: Any) -> Leaving:  # as PettingZoo's modules have it
    """What an id without a function names."""
    return Leaving(**settings)


class WithoutAgents(Leaving):
    """Nobody knows who will be there."""

    def __init__(self) -> None:
        super().__init__()
        del self.possible_agents


class Pixels(Leaving):
    """Its observations are not Boxes."""

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(3)
