"""NaN and infinity: found before they reach the weights, and named."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.training.batching import BatchPlan


class NonFiniteError(RuntimeError):
    """A number is NaN or infinite where weights would learn from it; they have not (exit code 7)."""


def find_nonfinite(segments: Segments, plan: BatchPlan) -> str | None:
    """Where a rollout holds a number that is not finite; None when it holds none. One wait for the device.

    What comes from the environment is named before what the policy made of it.
    """
    # A sum over a number that is not finite is not finite either, and takes a twentieth of the time of looking at each.
    sums = [tensor.sum(dtype=torch.float32) for tensor in segments.tensors() if tensor.is_floating_point()]
    if bool(torch.isfinite(torch.stack(sums)).all()):
        return None
    named = {
        "observation": segments.observations,
        "reward": segments.rewards,
        "recurrent state": torch.cat([t.flatten(1) for t in segments.state.tensors], 1)
        if segments.state.tensors
        else segments.rewards,
        "value": segments.values,
        "log-probability": segments.log_probs,
        "truncation value": segments.truncation_values,
        "bootstrap value": segments.bootstrap_values,
    }
    floating = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in floating.values()]).tolist()
    for (name, tensor), whole in zip(floating.items(), finite, strict=True):
        if not whole:
            return _place(name, tensor, plan)
    return None


def name_nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """`"the gradient of fc1.weight is nan"` for the first tensor that holds such a number."""
    for name, tensor in tensors:
        wrong = tensor[~torch.isfinite(tensor)]
        if wrong.numel():
            return f"{name} is {wrong[0].item()} ({wrong.numel()} of {tensor.numel()} values)"
    return None


def _place(name: str, tensor: Tensor, plan: BatchPlan) -> str:
    """`tensor` is [S, ...] or [S, T, ...]; segment s is part s % P of row s // P."""
    first = (~torch.isfinite(tensor)).nonzero()[0].tolist()
    value = tensor[tuple(first)].item()
    parts = plan.steps // plan.bptt_horizon
    row, part = divmod(first[0], parts)
    env, agent = divmod(row, plan.rows // plan.num_envs)
    per_step = name in ("observation", "reward", "value", "log-probability", "truncation value")
    step = part * plan.bptt_horizon + (first[1] if per_step else 0)
    return f"{name} is {value} in env {env}, agent {agent}, step {step + 1} of {plan.steps} of the rollout"
