"""Gymnasium environments that misbehave, registered when this module is imported."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import gymnasium
import numpy as np


class FakeEnv(gymnasium.Env[np.ndarray, np.int64]):
    """Ends by termination after `length` steps; does what `fault` says at step 3."""

    def __init__(self, fault: str = "none", length: int = 5, start: int = 0, dtype: str = "float32") -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 100.0, (2,), np.dtype(dtype).type)
        self.action_space = gymnasium.spaces.Discrete(3, start=start)
        self._fault = fault
        self._length = length
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._step = 0
        return self._observation(0), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self._step += 1
        if self._step == 3:
            self._misbehave()
        reward = float("nan") if self._fault == "nan_reward" and self._step == 3 else float(action)
        return self._observation(action), reward, self._step == self._length, False, {}

    def _misbehave(self) -> None:
        match self._fault:
            case "raise":
                raise RuntimeError("the fake env is broken at step 3")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(60)
            case "leave":
                os._exit(0)

    def _observation(self, action: int | np.int64) -> np.ndarray:
        return np.array([self._step, action], self.observation_space.dtype)


class DictObservations(FakeEnv):
    """Its observations are not a Box."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(2)})  # type: ignore[assignment]  # on purpose


gymnasium.register("Fake-v0", f"{__name__}:FakeEnv", disable_env_checker=True)
gymnasium.register("FakeDict-v0", f"{__name__}:DictObservations", disable_env_checker=True)
gymnasium.register("FakeLimited-v0", f"{__name__}:FakeEnv", max_episode_steps=4, disable_env_checker=True)
gymnasium.register("FakeNondeterministic-v0", f"{__name__}:FakeEnv", disable_env_checker=True, nondeterministic=True)
