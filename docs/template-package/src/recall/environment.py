"""An environment that cannot be solved without a memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from metta_train.envs.environment import EnvBuffers
from metta_train.envs.own_environment import OwnEnvironment
from metta_train.specs.action_table import ActionTable
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec


class RecallOptions(ConfigModel):
    """The keys under `env.options`; a wrong one is told with its name and what it needs."""

    num_agents: Annotated[int, Field(gt=0)]
    num_words: Annotated[int, Field(gt=1)]
    delay: Annotated[int, Field(gt=0)]


class Recall(OwnEnvironment):
    """Each agent sees its word in the first step only, and is asked for it `delay` steps later.

    An observation has one number per word and one that is 1 when the question is asked.
    """

    Options: ClassVar[type[ConfigModel]] = RecallOptions

    def __init__(self, options: RecallOptions) -> None:
        self._options = options
        self._spec = EnvironmentSpec(
            name="recall",
            num_agents=options.num_agents,
            observation=BoxObservation(shape=(options.num_words + 1,), dtype="float32"),
            actions=ActionTable.discrete([f"word_{number}" for number in range(options.num_words)]),
        )
        self._words = np.zeros(options.num_agents, np.int64)
        self._steps = 0
        self._right = 0.0

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    @property
    def can_replay(self) -> bool:
        return True  # seed and actions decide everything, so a run goes on to the bit

    @property
    def episode_limit(self) -> int:
        return self._options.delay + 1

    def bind(self, buffers: EnvBuffers) -> None:
        self._buffers = buffers

    def reset(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._words = random.integers(0, self._options.num_words, self._options.num_agents)
        self._steps = 0
        buffers = self._buffers
        buffers.observations.fill(0)
        buffers.observations[np.arange(len(self._words)), self._words] = 1
        buffers.rewards.fill(0)
        buffers.terminations.fill(False)
        buffers.truncations.fill(False)

    def step(self, actions: NDArray[np.int32]) -> None:
        buffers = self._buffers  # all four are written in every step: others write to them in between
        asked = self._steps == self._options.delay
        buffers.rewards[:] = (actions == self._words) if asked else 0
        buffers.terminations.fill(asked)
        buffers.truncations.fill(False)
        self._right = float(buffers.rewards.mean())
        self._steps += 1
        buffers.observations.fill(0)
        buffers.observations[:, -1] = self._steps == self._options.delay

    def episode_stats(self) -> Mapping[str, float]:
        return {"right_answers": self._right}

    def close(self) -> None:
        pass
