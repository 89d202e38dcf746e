"""What the trainer and its learner processes tell each other; numbers go through shared memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metta_train.policies.policy import Policy

PolicyRecipe = Callable[[], Policy]  # can be pickled; the weights that it makes do not matter


@dataclass(frozen=True, slots=True)
class LearnerPlan:
    """First message to a learner: what it computes. It answers `Ready`."""

    recipe: PolicyRecipe
    precision: str
    segments: int  # of its share of a minibatch
    horizon: int
    piece_segments: int
    deterministic: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The learner has built its policy, with these parameters."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # name, shape


@dataclass(frozen=True, slots=True)
class Forward:
    """Evaluate the actions of the share; answered by `Evaluated`."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The evaluation is in the memory."""


@dataclass(frozen=True, slots=True)
class Backward:
    """Compute the gradients; answered by `Differentiated`."""


@dataclass(frozen=True, slots=True)
class Differentiated:
    """The gradients are in the memory."""

    playing: tuple[bool, ...]  # per trained parameter: whether it has one
