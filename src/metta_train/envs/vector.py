"""Many environments stepped together: the contract that in-process and worker envs share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


class WorkerError(RuntimeError):
    """An env worker process failed, died or did not answer; the text says which, and shows its traceback."""


@dataclass(frozen=True, slots=True)
class VectorStep:
    """Consequences of one step of one slice (r rows), valid until the next `send` to this slice.

    `observations` are those of the next decision: where an episode ended, the first one of the next episode.
    """

    rows: slice  # of this slice among the rows of the vector env
    observations: NDArray[np.generic]  # [r, ...]
    rewards: NDArray[np.float32]  # [r]
    terminations: NDArray[np.bool_]  # [r]
    truncations: NDArray[np.bool_]  # [r]
    final_rows: NDArray[np.int64]  # [K] absolute numbers of the rows whose episode ended, ascending
    final_observations: NDArray[np.generic]  # [K, ...] the last observations of those episodes
    episodes: tuple[EpisodeRecord, ...]  # in the order of their envs


class VectorEnv(ABC):
    """Rows are agents: row = env * num_agents + agent. Slices are equal, contiguous groups of envs."""

    def __init__(self, spec: EnvironmentSpec, *, num_envs: int, num_slices: int) -> None:
        assert num_envs >= 1 and num_slices >= 1 and num_envs % num_slices == 0
        self.spec = spec
        self.num_envs = num_envs
        self.num_slices = num_slices
        self.num_rows = num_envs * spec.num_agents

    def slice_rows(self, index: int) -> slice:
        """The rows of slice `index`."""
        size = self.num_rows // self.num_slices
        return slice(index * size, (index + 1) * size)

    def slice_envs(self, index: int) -> range:
        """The envs of slice `index`."""
        size = self.num_envs // self.num_slices
        return range(index * size, (index + 1) * size)

    @abstractmethod
    def reset(self) -> NDArray[np.generic]:
        """Start all streams of episodes from their beginning; observations [R, ...], valid until the next send."""

    @abstractmethod
    def send(self, index: int, actions: NDArray[np.int32] | NDArray[np.int64]) -> None:
        """Let the envs of a slice take `actions` [r]; a `receive` of this slice must follow."""

    @abstractmethod
    def receive(self, index: int) -> VectorStep:
        """Wait for the step that `send` began. Raises WorkerError when a worker cannot answer."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything within a bounded time; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
