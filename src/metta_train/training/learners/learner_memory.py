"""What one learner process shares with the trainer: the weights, its share of a minibatch, and its answers."""

from __future__ import annotations

from dataclasses import dataclass
from mmap import mmap

import torch
from torch import Tensor

from metta_train.envs.packed_arrays import ArrayLayout, packed_arrays, packed_bytes
from metta_train.policies.policy import Policy
from metta_train.specs.records import ActionEvaluation
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.learners.network_pass import Gradients, NetworkInputs, trained_parameters


def weights_bytes(policy: Policy) -> int:
    """Size of the block that `move_weights` needs."""
    return packed_bytes(_layouts_of(policy))


def move_weights(policy: Policy, memory: mmap, *, fill: bool) -> None:
    """Let the parameters live in `memory`, with the values that they have (`fill`) or those that are there.

    Whoever moves them then, moves them for every process that maps this memory.
    """
    for parameter, place in zip(policy.parameters(), _tensors(memory, _layouts_of(policy)), strict=True):
        if fill:
            place.copy_(parameter.detach())
        parameter.data = place


@dataclass(frozen=True, slots=True)
class LearnerMemory:
    """A share of m segments; tensors over shared memory."""

    inputs: NetworkInputs
    evaluation: ActionEvaluation  # what the learner says
    grads: ActionEvaluation  # of that
    gradients: Gradients

    @staticmethod
    def num_bytes(policy: Policy, segments: int, horizon: int) -> int:
        """Size of the block that `over` needs."""
        return packed_bytes(_share_layouts(policy, segments, horizon))

    @classmethod
    def over(cls, memory: mmap, policy: Policy, segments: int, horizon: int) -> LearnerMemory:
        """The views of a share of `segments` segments of `horizon` steps."""
        remaining = iter(_tensors(memory, _share_layouts(policy, segments, horizon)))
        observations, actions, resets = (next(remaining) for _ in range(3))
        return cls(
            inputs=NetworkInputs(
                observations, actions, resets, RecurrentState(tuple(next(remaining) for _ in policy.state_shapes))
            ),
            evaluation=ActionEvaluation(*(next(remaining) for _ in range(3))),
            grads=ActionEvaluation(*(next(remaining) for _ in range(3))),
            gradients=Gradients(trained_parameters(policy), next(remaining)),
        )


def _share_layouts(policy: Policy, segments: int, horizon: int) -> list[ArrayLayout]:
    observation = policy.spec.observation
    grid = (segments, horizon)
    return [
        (observation.dtype, (*grid, *observation.shape)),
        ("int64", grid),
        ("bool", grid),
        *(("float32", (segments, *shape)) for shape in policy.state_shapes),
        *[("float32", grid)] * 6,
        ("float32", (sum(parameter.numel() for parameter in trained_parameters(policy)),)),
    ]


def _layouts_of(policy: Policy) -> list[ArrayLayout]:
    return [(_numpy_name(parameter), tuple(parameter.shape)) for parameter in policy.parameters()]


def _numpy_name(tensor: Tensor) -> str:
    return tensor.detach().numpy().dtype.name


def _tensors(memory: mmap, layouts: list[ArrayLayout]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in packed_arrays(memory, layouts)]
