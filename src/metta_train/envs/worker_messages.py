"""What the trainer and its env workers tell each other; observations and actions go through shared memory."""

from __future__ import annotations

from dataclasses import dataclass

from metta_train.envs.config import EnvConfig
from metta_train.envs.episode_log import EpisodePoint
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """First message to a worker: what it runs. It answers `WorkerReady`."""

    config: EnvConfig
    num_envs: int  # of the whole vector env
    envs: tuple[tuple[int, ...], ...]  # per slice, the envs of this worker
    seed: int
    rank: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker has built its envs."""

    spec: EnvironmentSpec
    can_replay: bool


@dataclass(frozen=True, slots=True)
class ResetEnvs:
    """Reset the worker's envs of one slice; answered by `SliceDone`."""

    slice_index: int


@dataclass(frozen=True, slots=True)
class StepEnvs:
    """Step the worker's envs of one slice with the actions in shared memory; answered by `SliceDone`."""

    slice_index: int


@dataclass(frozen=True, slots=True)
class RestoreEnvs:
    """Put these of the worker's envs of one slice at points of their streams; answered by `SliceDone`."""

    slice_index: int
    points: tuple[EpisodePoint, ...]


@dataclass(frozen=True, slots=True)
class LoseEnvs:
    """Another worker died with these envs at (env, episode, length); their next step cuts that episode. No answer."""

    envs: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class SliceDone:
    """The worker's envs of a slice have written their step or first observations."""

    slice_index: int
    episodes: tuple[EpisodeRecord, ...]
