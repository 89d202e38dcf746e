"""The distribution over actions that logits stand for: drawing from it, and what it says of stored actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from metta_train.policies.kernels.actions import evaluated_actions, sampled_actions, through_evaluated_actions
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.watched import takes_cpu_kernels


def sample(logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One action per row of `logits[B, A]` and its log-prob, both `[B]`; noise comes from `generator` alone.

    Gumbel-max: argmax(log p + g) is a draw from p, and -log of an exponential draw is Gumbel noise. The draw can be 0
    in float32, which would turn an impossible action (log p = -inf) into nan.
    """
    logits = logits.float()
    noise = torch.empty_like(logits).exponential_(generator=generator)
    if takes_cpu_kernels(logits) and not logits.requires_grad:
        actions, log_probs = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits))
        sampled_actions(*map(numbers_of, (logits.contiguous(), noise, actions, log_probs)))
        return actions, log_probs
    all_log_probs = functional.log_softmax(logits, dim=-1)
    noise.clamp_min_(torch.finfo(torch.float32).tiny)
    actions = (all_log_probs - noise.log()).argmax(dim=-1)
    return actions, all_log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def log_probs_and_entropy(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Of stored `actions[...]` under `logits[..., A]`, float32 `[...]` each, with their gradients."""
    logits, actions = logits.float(), actions.long()
    if takes_cpu_kernels(logits):
        return _Evaluated.apply(logits, actions)  # pyright: ignore[reportReturnType]
    log_probs = functional.log_softmax(logits, dim=-1)
    # An impossible action has p = 0 and log p = -inf, whose product is nan; its share of the entropy is 0.
    entropy = -(log_probs.exp() * log_probs.clamp_min(torch.finfo(torch.float32).min)).sum(dim=-1)
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1), entropy


class _Evaluated(torch.autograd.Function):
    """Float32 logits `[..., A]`, int64 actions `[...]` -> float32 log-probs and entropies `[...]`."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # torch's context, which has no public type
        logits: Tensor,
        actions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        logits, actions = logits.contiguous(), actions.contiguous()
        log_probs, entropies = (torch.empty(actions.shape) for _ in range(2))
        evaluated_actions(
            numbers_of(logits.flatten(0, -2)), *(numbers_of(t.view(-1)) for t in (actions, log_probs, entropies))
        )
        ctx.save_for_backward(logits, actions, entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs: Tensor, grad_entropies: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        logits, actions, entropies = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        grads = (numbers_of(grad.contiguous().view(-1)) for grad in (grad_log_probs, grad_entropies))
        known = (numbers_of(logits.flatten(0, -2)), numbers_of(actions.view(-1)), numbers_of(entropies.view(-1)))
        through_evaluated_actions(*grads, *known, numbers_of(grad_logits.flatten(0, -2)))
        return grad_logits, None
