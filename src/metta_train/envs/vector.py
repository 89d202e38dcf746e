"""Many environments stepped together: the contract that in-process and worker envs share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.episode_log import VectorSnapshot
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


class WorkerError(RuntimeError):
    """A process of envs or a learner failed, died or did not answer; the text says which, and shows its traceback."""


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


@dataclass(frozen=True, slots=True)
class RestoredEnvs:
    """What `VectorEnv.restore` brought back."""

    observations: NDArray[np.generic]  # [R, ...] of the next decision, valid until the next send
    opened: tuple[int, ...]  # envs that opened a new episode, because theirs could not be brought back
    differing: tuple[int, ...]  # those of them whose episode, played again, showed other observations


class VectorEnv(ABC):
    """Rows are agents: row = env * num_agents + agent. Slices are equal, contiguous groups of envs.

    Attributes:
        restarts: workers that failed and were started again so far.
    """

    restarts: int = 0

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


class ResumableVectorEnv(VectorEnv):
    """A vector env that tells where it stands, and can be brought back to there."""

    @abstractmethod
    def mark(self) -> None:
        """From now on `snapshot` tells of this moment; no slice may be in flight. A reset or restore marks too."""

    @abstractmethod
    def snapshot(self) -> VectorSnapshot:
        """Where the envs stood at the last `mark`; may be asked at any time, also after a WorkerError."""

    @abstractmethod
    def restore(self, snapshot: VectorSnapshot) -> RestoredEnvs:
        """Bring all envs to where a vector env of the same seed and rank stood, whatever its slices and workers.

        Episodes are played again. An env whose episode cannot be brought back opens the next one of its stream: the
        environment does not replay, the observations differ, or the snapshot is of another number of envs.
        """
