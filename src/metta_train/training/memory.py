"""What a training will take of the memory of its device and of the machine, and whether that ran out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import psutil
import torch
from torch import Tensor

from metta_train.experience.segment_buffer import torch_dtype
from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.training.batching import BYTES_PER_STEP, BatchPlan
from metta_train.training.precision import arithmetic

# The activations of this many segments, and of twice as many, are weighed; the line through both gives those of a
# gradient step.
MEASURED_SEGMENTS = 4


@dataclass(frozen=True, slots=True)
class ExpectedMemory:
    """Bytes.

    Attributes:
        network: weights, gradients, what the optimizer remembers of each weight, and the anchors of weight operations.
        buffer: one rollout.
        minibatch: the copy of a minibatch.
        activations: what the backward pass of one piece of a minibatch keeps.
        process: resident in this process with everything loaded and built, before the first epoch.
        others: resident in the processes of environments and learners.
    """

    network: int
    buffer: int
    minibatch: int
    activations: int
    process: int
    others: int

    @property
    def on_device(self) -> int:
        """What the training adds on the device that trains."""
        return self.network + self.buffer + self.minibatch + self.activations


def expected_memory(
    policy: Policy, spec: EnvironmentSpec, plan: BatchPlan, optimizer: Literal["adam", "muon"]
) -> ExpectedMemory:
    """Computed from the sizes; the activations are measured on a few segments. Environments must still be open."""
    step = math.prod(spec.observation.shape) * torch_dtype(spec.observation.dtype).itemsize + BYTES_PER_STEP
    state = 4 * (1 + sum(math.prod(shape) for shape in policy.state_shapes))
    return ExpectedMemory(
        network=_network(policy, optimizer),
        buffer=plan.batch_size * step + plan.segments * state,
        minibatch=plan.minibatch_size * step + plan.minibatch_segments * state,
        activations=_activations(policy, plan),
        process=psutil.Process().memory_info().rss,
        others=sum(_resident(child) for child in psutil.Process().children(recursive=True)),
    )


def memory_exhausted(error: BaseException) -> str | None:
    """The first line of what was said when memory ran out; None when it did not."""
    # torch has no class for the memory of the host.
    host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if host or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return (str(error) or "the machine's memory").splitlines()[0][:200]
    return None


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:  # it ended meanwhile
        return 0


def _network(policy: Policy, optimizer: Literal["adam", "muon"]) -> int:
    total = 0
    for parameter in policy.parameters():
        remembered = 1 if optimizer == "muon" and parameter.dim() == 2 else 2
        total += parameter.nbytes * (2 + remembered)
    return total + sum(layer.weight.nbytes for layer in policy.weight_layers())


def _activations(policy: Policy, plan: BatchPlan) -> int:
    few, more = MEASURED_SEGMENTS, 2 * MEASURED_SEGMENTS
    if plan.piece_segments <= more:
        return _activations_of(policy, plan, plan.piece_segments)
    first, second = (_activations_of(policy, plan, segments) for segments in (few, more))
    return first + (second - first) * (plan.piece_segments - few) // few


def _activations_of(policy: Policy, plan: BatchPlan, segments: int) -> int:
    """Bytes that autograd keeps of this many segments; weights and views of the same memory count once or not."""
    device, spec = policy.active_rows.device, policy.spec
    dtype = torch_dtype(spec.observation.dtype)
    shape = (segments, plan.bptt_horizon)
    observations = torch.zeros((*shape, *spec.observation.shape), dtype=dtype, device=device)
    resets = torch.zeros(shape, dtype=torch.bool, device=device)
    known = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    kept: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor),
        arithmetic(plan.precision, device),
    ):
        evaluation = policy.evaluate_actions(
            observations, torch.zeros(shape, dtype=torch.int64, device=device), policy.initial_state(segments), resets
        )
    # The graph has to live until here: freed memory would be handed out, and counted, twice.
    del evaluation
    return sum(kept.values())
