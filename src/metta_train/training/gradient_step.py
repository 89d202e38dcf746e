"""One gradient step of PPO on a minibatch of segments, with BPTT through their recurrent state.

Proximal Policy Optimization Algorithms (Schulman et al., 2017, https://arxiv.org/abs/1707.06347); importance clips of
the advantage from IMPALA (Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.policies.held_signals import signals_held
from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors, clip_weights, l2_init_loss, l2_reg_loss
from metta_train.ppo import advantages as torch_advantages
from metta_train.ppo import puffer_kernel
from metta_train.ppo.advantages import normalize_advantages
from metta_train.ppo.diagnostics import approx_kl, clip_fraction
from metta_train.ppo.losses import clipped_policy_loss, clipped_value_loss, value_loss
from metta_train.specs.records import ActionEvaluation, HyperparameterValues
from metta_train.training.batching import BatchPlan
from metta_train.training.config import PPOConfig, VtraceConfig
from metta_train.training.nonfinite import name_nonfinite
from metta_train.training.optimizers import PolicyOptimizer
from metta_train.training.precision import arithmetic, denormals_flushed
from metta_train.training.recording import Recorder, Recording
from metta_train.training.row_threads import RowThreads

# Agent steps; fewer are not worth a thread of their own.
LEAST_STEPS = 256


class Column(IntEnum):
    """One gradient step's numbers travel as one small tensor, read once per epoch: no sync inside the loop."""

    TOTAL_LOSS = 0
    POLICY_LOSS = 1
    VALUE_LOSS = 2
    ENTROPY = 3
    APPROX_KL = 4
    CLIPFRAC = 5
    IMPORTANCE = 6
    CURRENT_LOGPROBS = 7
    L2_REG_LOSS = 8
    L2_INIT_LOSS = 9
    GRAD_NORM = 10


@dataclass(frozen=True, slots=True)
class _Coefficients:
    """Of the loss; scalar tensors where the operations are recorded, because they change from epoch to epoch."""

    clip_coef: float | Tensor
    vf_clip_coef: float | Tensor
    ent_coef: float | Tensor


class NonFiniteStepError(RuntimeError):
    """A loss or a gradient is not finite; the message names it, and the weights have not moved."""


class GradientStep:
    """Improves a policy by one minibatch; all minibatches have the same size.

    On the CPU every step looks whether its numbers are finite. On CUDA, and where steps are recorded, nothing here
    waits for the device: the optimizer leaves out steps that are not, and whoever reads the epoch's rows sees it.

    Args:
        policy: on its device.
        optimizer: of the policy.
        anchors: of the policy's weights.
        plan: sizes and precision.
        ppo: coefficients of the loss.
        vtrace: clips of the advantages.
        clip_range: of the weights, 0 = none.
        threads: share the segments of every step.
        record: on CUDA, makes one launch of everything up to the gradients.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: PolicyOptimizer,
        anchors: WeightAnchors,
        plan: BatchPlan,
        ppo: PPOConfig,
        vtrace: VtraceConfig,
        clip_range: float,
        threads: RowThreads,
        record: Recorder | None = None,
    ) -> None:
        assert record is None or threads.count == 1, "threads cannot be recorded"
        self._policy = policy
        self._optimizer = optimizer
        self._anchors = anchors
        self._plan = plan
        self._ppo = ppo
        self._vtrace = vtrace
        self._clip_range = clip_range
        self._threads = threads
        self._record = record
        self._recording: Recording | None = None
        device = policy.active_rows.device
        self._looks = device.type == "cpu" and record is None
        # On CUDA one launch instead of one per step. On the CPU torch's version is exact to the bit on every machine,
        # and neither takes a hundredth of an epoch. The kernel goes to the default stream, so it cannot be recorded.
        kernel = device.type == "cuda" and record is None and puffer_kernel.available(device)
        self._compute_advantages = (puffer_kernel if kernel else torch_advantages).compute_advantages
        self._parameters = [p for p in policy.parameters() if p.requires_grad]
        self._trained = self._parameters  # those that play a part

    @denormals_flushed()
    def __call__(self, minibatch: Segments, returns: Tensor, weights: Tensor, values: HyperparameterValues) -> Tensor:
        """Move the weights; gives back the step's numbers, one for each `Column`.

        Args:
            minibatch: m segments.
            returns: `[m, T]`.
            weights: `[m]`, of the segments' advantages.
            values: the scheduled values.

        Raises:
            NonFiniteStepError: on the CPU.
        """
        self._optimizer.zero_grad()
        means, gradients = self._gradients(minibatch, returns, weights, values)
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient
        means[Column.TOTAL_LOSS] += self._regularize(means, values)
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._ppo.max_grad_norm)
        finite = torch.isfinite(means[Column.TOTAL_LOSS]) & torch.isfinite(grad_norm)
        if self._looks:
            if not bool(finite):
                raise NonFiniteStepError(self._name_of_nonfinite(means))
            self._optimizer.step(threads=self._threads)
        else:
            self._optimizer.step(leave_out=~finite, threads=self._threads)
        clip_weights(self._policy, self._anchors, self._clip_range)
        return torch.cat([means, grad_norm.detach().reshape(1)])

    def advantages(self, segments: Segments, ratio: Tensor) -> Tensor:
        """`[S, T]`, for the ratios `[S, T]` of the present weights to those that acted."""
        return self._compute_advantages(
            segments.values,
            segments.bootstrap_values,
            segments.rewards,
            segments.terminations,
            segments.truncations,
            segments.truncation_values,
            ratio,
            gamma=self._ppo.gamma,
            gae_lambda=self._ppo.gae_lambda,
            rho_clip=self._vtrace.vtrace_rho_clip,
            c_clip=self._vtrace.vtrace_c_clip,
        )

    def _gradients(
        self, minibatch: Segments, returns: Tensor, weights: Tensor, values: HyperparameterValues
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """The columns before GRAD_NORM, and the gradients of `_trained`."""
        coefficients = (values.ppo_clip_coef, values.ppo_vf_clip_coef, values.ppo_ent_coef)
        if self._record is None:
            return self._compute_gradients(minibatch, returns, weights, _Coefficients(*coefficients))
        if self._recording is None:
            self._recording = Recording("the gradient step", self._recorded_gradients(minibatch), self._record)
        # Filled on the device: a copy from ordinary memory could wait.
        numbers = torch.stack([returns.new_full((), coefficient) for coefficient in coefficients])
        means, *gradients = self._recording(*minibatch.tensors(), returns, weights, numbers)
        return means, gradients

    def _recorded_gradients(self, example: Segments) -> Callable[..., Sequence[Tensor]]:
        def gradients(*inputs: Tensor) -> Sequence[Tensor]:
            *tensors, returns, weights, coefficients = inputs
            remaining = iter(tensors)
            minibatch = example.map(lambda _: next(remaining))
            means, found = self._compute_gradients(minibatch, returns, weights, _Coefficients(*coefficients.unbind()))
            return [means, *found]

        return gradients

    def _compute_gradients(
        self, minibatch: Segments, returns: Tensor, weights: Tensor, coefficients: _Coefficients
    ) -> tuple[Tensor, Sequence[Tensor]]:
        parts = self._parts(minibatch.num_segments)
        at_once = len(parts) <= self._threads.count
        evaluations = self._threads.map(lambda part: self._evaluate(minibatch.part(part), gradients=at_once), parts)
        # What the network says is looked at as a whole (V-trace clips, normalisation, means); the parts only go
        # through the network, forward and with the gradients of what they said backward.
        whole = [
            torch.cat(tensors).detach().requires_grad_() for tensors in zip(*map(_tensors, evaluations), strict=True)
        ]
        losses = self._losses(minibatch, ActionEvaluation(*whole), returns, weights, coefficients)
        whole_grads = torch.autograd.grad(losses[Column.TOTAL_LOSS], whole)

        def through_network(index: int) -> Sequence[Tensor | None]:
            part = parts[index]
            evaluation = evaluations[index] if at_once else self._evaluate(minibatch.part(part))
            pairs = zip(_tensors(evaluation), whole_grads, strict=True)
            answers = [(answer, grad[part]) for answer, grad in pairs if answer.requires_grad]
            with signals_held():
                return torch.autograd.grad(
                    [answer for answer, _ in answers],
                    self._parameters,
                    [grad for _, grad in answers],
                    allow_unused=True,
                )

        sums: list[Tensor | None] = [None] * len(self._parameters)
        for first in range(0, len(parts), self._threads.count):
            together = range(first, min(first + self._threads.count, len(parts)))
            for gradients in self._threads.map(through_network, together):
                sums = [_sum(*pair) for pair in zip(sums, gradients, strict=True)]
        self._trained = [p for p, gradient in zip(self._parameters, sums, strict=True) if gradient is not None]
        return losses.detach(), [gradient for gradient in sums if gradient is not None]

    def _parts(self, segments: int) -> list[slice]:
        """Of a minibatch: for each thread one, or more where memory allows only smaller ones."""
        least = -(-LEAST_STEPS // self._plan.bptt_horizon)
        parts = self._threads.parts(segments, least)
        largest = max(1, self._plan.piece_segments // len(parts))
        return [
            slice(first, min(first + largest, part.stop))
            for part in parts
            for first in range(part.start, part.stop, largest)
        ]

    def _evaluate(self, segments: Segments, *, gradients: bool = True) -> ActionEvaluation:
        with torch.set_grad_enabled(gradients), arithmetic(self._plan.precision, segments.log_probs.device):
            return self._policy.evaluate_actions(
                segments.observations, segments.actions, segments.state, segments.resets
            )

    def _losses(
        self,
        minibatch: Segments,
        evaluation: ActionEvaluation,
        returns: Tensor,
        weights: Tensor,
        coefficients: _Coefficients,
    ) -> Tensor:
        """The columns before GRAD_NORM, means over the minibatch; the total carries the gradient."""
        log_probs, old_log_probs = evaluation.log_probs, minibatch.log_probs
        advantages = self.advantages(minibatch, (log_probs.detach() - old_log_probs).exp())
        if self._ppo.norm_adv:
            advantages = normalize_advantages(advantages)
        advantages = weights.unsqueeze(1) * advantages
        policy_loss = clipped_policy_loss(log_probs, old_log_probs, advantages, coefficients.clip_coef)
        if self._ppo.clip_vloss:
            critic_loss = clipped_value_loss(evaluation.values, minibatch.values, returns, coefficients.vf_clip_coef)
        else:
            critic_loss = value_loss(evaluation.values, returns)
        entropy = evaluation.entropy.mean()
        total = policy_loss - coefficients.ent_coef * entropy + self._ppo.vf_coef * critic_loss
        with torch.no_grad():
            diagnostics = (
                approx_kl(log_probs, old_log_probs),
                clip_fraction(log_probs, old_log_probs, coefficients.clip_coef),
                (log_probs - old_log_probs).exp().mean(),
                log_probs.mean(),
            )
        zero = torch.zeros_like(total)
        return torch.stack([total, policy_loss, critic_loss, entropy, *diagnostics, zero, zero])

    def _regularize(self, means: Tensor, values: HyperparameterValues) -> Tensor:
        """Add the gradients of the weight penalties, once per step, and note their values in `means`."""
        total = means.new_zeros(())
        for slot, coefficient, loss in (
            (Column.L2_REG_LOSS, values.ppo_l2_reg_loss_coef, lambda: l2_reg_loss(self._policy)),
            (Column.L2_INIT_LOSS, values.ppo_l2_init_loss_coef, lambda: l2_init_loss(self._policy, self._anchors)),
        ):
            if coefficient > 0:
                penalty = coefficient * loss()
                penalty.backward()
                means[slot] = penalty.detach()
                total = total + penalty.detach()
        return total

    def _name_of_nonfinite(self, means: Tensor) -> str:
        losses = [(Column(column).name.lower(), means[column]) for column in range(1, Column.GRAD_NORM)]
        gradients = [
            (f"the gradient of {name}", parameter.grad)
            for name, parameter in self._policy.named_parameters()
            if parameter.grad is not None
        ]
        total = ("total_loss", means[Column.TOTAL_LOSS])
        return name_nonfinite([*losses, total, *gradients]) or "the norm of the gradients is infinite"


def _sum(so_far: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """Of one parameter; None where it plays no part. The result's memory is its own."""
    if gradient is None:
        return so_far
    if so_far is None:
        # Copied: autograd may give the same memory to two parameters, or memory in another order.
        return gradient.clone(memory_format=torch.contiguous_format)
    return so_far.add_(gradient)


def _tensors(evaluation: ActionEvaluation) -> tuple[Tensor, Tensor, Tensor]:
    return evaluation.log_probs, evaluation.entropy, evaluation.values
