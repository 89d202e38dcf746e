"""What the benchmark can ask of an arm."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Arm(ABC):
    """One way to train. Each verb does one unit of work and returns the agent steps in it."""

    @abstractmethod
    def env_only(self) -> int:
        """Step the envs with random actions for one rollout."""

    @abstractmethod
    def inference(self) -> int:
        """One rollout: envs, policy, storing."""

    @abstractmethod
    def full(self) -> int:
        """One epoch: a rollout and the updates on it."""

    @abstractmethod
    def parameters(self) -> int:
        """Trained numbers of the network."""

    def reward(self) -> float | None:
        """Mean reward per agent step of the last epoch of `full`."""
        return None

    def synchronize(self) -> None:
        """Wait for the device; for clocks."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
