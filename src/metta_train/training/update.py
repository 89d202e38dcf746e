"""One epoch's gradient steps: PPO over minibatches of whole segments, with BPTT through their recurrent state.

Proximal Policy Optimization Algorithms (Schulman et al., 2017, https://arxiv.org/abs/1707.06347); importance clips of
the advantage from IMPALA (Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, section 4.1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from metta_train.experience.minibatches import annealed_beta, draw_minibatches
from metta_train.experience.segment_buffer import Segments
from metta_train.policies.held_signals import signals_held
from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors, clip_weights, l2_init_loss, l2_reg_loss
from metta_train.ppo import advantages as torch_advantages
from metta_train.ppo import puffer_kernel
from metta_train.ppo.advantages import normalize_advantages
from metta_train.ppo.diagnostics import approx_kl, clip_fraction, explained_variance
from metta_train.ppo.losses import clipped_policy_loss, clipped_value_loss, value_loss
from metta_train.specs.records import ActionEvaluation, GradientStats, HyperparameterValues, UpdateStats
from metta_train.training.batching import BatchPlan
from metta_train.training.config import PPOConfig, PrioritizedReplayConfig, VtraceConfig
from metta_train.training.nonfinite import NonFiniteError, find_nonfinite, name_nonfinite
from metta_train.training.optimizers import PolicyOptimizer
from metta_train.training.row_threads import RowThreads

logger = logging.getLogger(__name__)

# Agent steps; fewer are not worth a thread of their own.
LEAST_STEPS = 256


@dataclass(frozen=True, slots=True)
class Update:
    """What one call of `PolicyUpdater.update` brings."""

    stats: UpdateStats
    gradients: GradientStats | None
    seconds: float


class _Column(IntEnum):
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
class _Targets:
    """What a minibatch is trained towards; all [m, T], without gradient."""

    advantages: Tensor
    returns: Tensor


class PolicyUpdater:
    """Improves one policy with one optimizer from rollouts of one size."""

    def __init__(
        self,
        policy: Policy,
        optimizer: PolicyOptimizer,
        anchors: WeightAnchors,
        plan: BatchPlan,
        ppo: PPOConfig,
        vtrace: VtraceConfig,
        replay: PrioritizedReplayConfig,
        update_epochs: int,
        clip_range: float,
        generator: torch.Generator,
        nonfinite: Literal["stop", "skip", "rollback"] = "stop",
        check: Callable[[], None] = lambda: None,
        threads: RowThreads | None = None,
    ) -> None:
        self._threads = RowThreads() if threads is None else threads  # share the segments of every gradient step
        self._skips = nonfinite == "skip"
        self._check = check  # called before every gradient step; what it raises abandons the update
        self._policy = policy
        self._optimizer = optimizer
        self._anchors = anchors
        self._plan = plan
        self._ppo = ppo
        self._vtrace = vtrace
        self._replay = replay
        self._update_epochs = update_epochs
        self._clip_range = clip_range
        self._generator = generator
        device = policy.active_rows.device
        # On CUDA one launch instead of one per step. On the CPU torch's version is exact to the bit on every machine,
        # and neither takes a hundredth of an epoch.
        kernel = device.type == "cuda" and puffer_kernel.available(device)
        self._compute_advantages = (puffer_kernel if kernel else torch_advantages).compute_advantages
        self._parameters = [p for p in policy.parameters() if p.requires_grad]

    def update(
        self, segments: Segments, values: HyperparameterValues, progress: float, *, gradient_stats: bool = False
    ) -> Update:
        """Train on one rollout.

        Args:
            segments: [S, T, ...] of the rollout.
            values: the scheduled values of this epoch.
            progress: share of the run that is done, 0..1; anneals the correction of prioritised sampling.
            gradient_stats: measure the gradients of the last step.

        Raises:
            NonFiniteError: a number of the rollout, a loss or a gradient is not finite. No gradient step was made
                with it. Where such steps are skipped: all of them had to be.
        """
        started = perf_counter()
        wrong = find_nonfinite(segments, self._plan)
        if wrong is not None:
            self._report(wrong, "rewards and observations come from the environment: see env")
        self._optimizer.set_learning_rate(values.learning_rate)
        advantages = self._advantages(segments, torch.ones_like(segments.log_probs))
        returns = advantages + segments.values
        rows: list[Tensor] = []
        skipped = 0
        priorities = advantages if wrong is None else advantages.nan_to_num(0.0, 0.0, 0.0)
        kl_so_far: list[Tensor] = []
        epochs_done = 0
        for _ in range(self._update_epochs):
            for index, weights in draw_minibatches(
                priorities,
                self._plan.minibatch_segments,
                prio_alpha=self._replay.prio_alpha,
                prio_beta=annealed_beta(self._replay.prio_beta0, self._replay.prio_alpha, progress),
                generator=self._generator,
            ):
                self._check()
                row = self._step(segments.select(index), returns[index], weights, values)
                if row is None:
                    skipped += 1
                    continue
                rows.append(row)
                kl_so_far.append(row[_Column.APPROX_KL])
            epochs_done += 1
            if not rows:
                raise NonFiniteError("every gradient step of the epoch was skipped: none had finite numbers")
            if self._ppo.target_kl is not None and torch.stack(kl_so_far).mean() > self._ppo.target_kl:
                break
        return Update(
            stats=self._stats(rows, segments, returns, values, epochs_done, skipped),
            gradients=_gradient_stats(self._parameters) if gradient_stats else None,
            seconds=perf_counter() - started,
        )

    def _step(
        self, minibatch: Segments, returns: Tensor, weights: Tensor, values: HyperparameterValues
    ) -> Tensor | None:
        """One gradient step; returns the row of means that `_stats` reads, None where the step was skipped."""
        self._optimizer.zero_grad()
        parts = self._parts(minibatch.num_segments)
        # The advantage depends on the ratios of the whole minibatch (V-trace clips, normalisation), so these are
        # measured first; then the gradients of the parts add up to exactly the gradient of the whole.
        at_once = len(parts) <= self._threads.count
        evaluations = self._threads.map(lambda part: self._evaluate(minibatch.part(part), gradients=at_once), parts)
        log_probs = torch.cat([evaluation.log_probs.detach() for evaluation in evaluations])
        targets = self._targets(minibatch, log_probs, returns, weights)

        def learn(index: int) -> tuple[Tensor, Sequence[Tensor | None] | None]:
            part = parts[index]
            segments = minibatch.part(part)
            evaluation = evaluations[index] if at_once else self._evaluate(segments)
            part_targets = _Targets(targets.advantages[part], targets.returns[part])
            losses = self._losses(segments, evaluation, part_targets, values)
            losses = losses * (segments.num_segments / minibatch.num_segments)
            with signals_held():
                if self._threads.count == 1:
                    losses[_Column.TOTAL_LOSS].backward()
                    return losses.detach(), None
                # Threads may not add to the same gradients, as backward() does.
                return losses.detach(), torch.autograd.grad(
                    losses[_Column.TOTAL_LOSS], self._parameters, allow_unused=True
                )

        means = torch.zeros(_Column.GRAD_NORM, device=returns.device)
        for first in range(0, len(parts), self._threads.count):
            together = range(first, min(first + self._threads.count, len(parts)))
            for losses, gradients in self._threads.map(learn, together):
                means += losses
                if gradients is not None:
                    _add_gradients(self._parameters, gradients)
        means[_Column.TOTAL_LOSS] += self._regularize(means, values)
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._ppo.max_grad_norm)
        # The only wait for the device in a gradient step.
        if not bool(torch.isfinite(means[_Column.TOTAL_LOSS]) & torch.isfinite(grad_norm)):
            self._report(self._name_of_nonfinite(means), "try a smaller trainer.optimizer.learning_rate")
            return None
        self._optimizer.step()
        clip_weights(self._policy, self._anchors, self._clip_range)
        return torch.cat([means, grad_norm.detach().reshape(1)])

    def _name_of_nonfinite(self, means: Tensor) -> str:
        losses = [(_Column(column).name.lower(), means[column]) for column in range(1, _Column.GRAD_NORM)]
        gradients = [
            (f"the gradient of {name}", parameter.grad)
            for name, parameter in self._policy.named_parameters()
            if parameter.grad is not None
        ]
        total = ("total_loss", means[_Column.TOTAL_LOSS])
        return name_nonfinite([*losses, total, *gradients]) or "the norm of the gradients is infinite"

    def _report(self, what: str, advice: str) -> None:
        """Raise, or warn where the steps that it spoils are skipped."""
        if not self._skips:
            raise NonFiniteError(f"{what}; {advice}, or trainer.nonfinite=skip or rollback")
        logger.warning("%s; the gradient steps that it spoils are skipped", what)

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
        bfloat16 = self._plan.precision == "bf16"
        with (
            torch.set_grad_enabled(gradients),
            torch.autocast(segments.log_probs.device.type, dtype=torch.bfloat16, enabled=bfloat16),
        ):
            return self._policy.evaluate_actions(
                segments.observations, segments.actions, segments.state, segments.resets
            )

    def _advantages(self, segments: Segments, ratio: Tensor) -> Tensor:
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

    def _targets(self, minibatch: Segments, log_probs: Tensor, returns: Tensor, weights: Tensor) -> _Targets:
        advantages = self._advantages(minibatch, (log_probs - minibatch.log_probs).exp())
        if self._ppo.norm_adv:
            advantages = normalize_advantages(advantages)
        return _Targets(advantages=weights.unsqueeze(1) * advantages, returns=returns)

    def _losses(
        self, segments: Segments, evaluation: ActionEvaluation, targets: _Targets, values: HyperparameterValues
    ) -> Tensor:
        """The columns before GRAD_NORM, means over the segments; the total carries the gradient."""
        policy_loss = clipped_policy_loss(
            evaluation.log_probs, segments.log_probs, targets.advantages, values.ppo_clip_coef
        )
        if self._ppo.clip_vloss:
            critic_loss = clipped_value_loss(
                evaluation.values, segments.values, targets.returns, values.ppo_vf_clip_coef
            )
        else:
            critic_loss = value_loss(evaluation.values, targets.returns)
        entropy = evaluation.entropy.mean()
        total = policy_loss - values.ppo_ent_coef * entropy + self._ppo.vf_coef * critic_loss
        with torch.no_grad():
            log_probs, old_log_probs = evaluation.log_probs, segments.log_probs
            diagnostics = (
                approx_kl(log_probs, old_log_probs),
                clip_fraction(log_probs, old_log_probs, values.ppo_clip_coef),
                (log_probs - old_log_probs).exp().mean(),
                log_probs.mean(),
            )
        zero = torch.zeros_like(total)
        return torch.stack([total, policy_loss, critic_loss, entropy, *diagnostics, zero, zero])

    def _regularize(self, means: Tensor, values: HyperparameterValues) -> Tensor:
        """Add the gradients of the weight penalties, once per step, and note their values in `means`."""
        total = means.new_zeros(())
        for slot, coefficient, loss in (
            (_Column.L2_REG_LOSS, values.ppo_l2_reg_loss_coef, lambda: l2_reg_loss(self._policy)),
            (_Column.L2_INIT_LOSS, values.ppo_l2_init_loss_coef, lambda: l2_init_loss(self._policy, self._anchors)),
        ):
            if coefficient > 0:
                penalty = coefficient * loss()
                penalty.backward()
                means[slot] = penalty.detach()
                total = total + penalty.detach()
        return total

    def _stats(
        self,
        rows: list[Tensor],
        segments: Segments,
        returns: Tensor,
        values: HyperparameterValues,
        epochs_done: int,
        skipped: int,
    ) -> UpdateStats:
        table = torch.stack(rows)
        if not self._skips and not bool(torch.isfinite(table).all()):
            step = int((~torch.isfinite(table).all(dim=1)).nonzero()[0])
            column = int((~torch.isfinite(table[step])).nonzero()[0])
            name, value = _Column(column).name.lower(), table[step, column].item()
            raise NonFiniteError(
                f"{name} is {value} in gradient step {step + 1} of {len(rows)}: "
                f"try a smaller trainer.optimizer.learning_rate or trainer.ppo.max_grad_norm"
            )
        means = table.mean(dim=0).tolist()
        return UpdateStats(
            policy_loss=means[_Column.POLICY_LOSS],
            value_loss=means[_Column.VALUE_LOSS],
            entropy=means[_Column.ENTROPY],
            approx_kl=means[_Column.APPROX_KL],
            clipfrac=means[_Column.CLIPFRAC],
            importance=means[_Column.IMPORTANCE],
            current_logprobs=means[_Column.CURRENT_LOGPROBS],
            explained_variance=float(explained_variance(segments.values, returns)),
            grad_norm=means[_Column.GRAD_NORM],
            l2_reg_loss=means[_Column.L2_REG_LOSS] if values.ppo_l2_reg_loss_coef > 0 else None,
            l2_init_loss=means[_Column.L2_INIT_LOSS] if values.ppo_l2_init_loss_coef > 0 else None,
            num_minibatches=len(rows),
            skipped_minibatches=skipped,
            update_epochs=epochs_done,
        )


def _add_gradients(parameters: list[torch.nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """To what the parameters have; a parameter that plays no part has None."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            # Copied: autograd may give the same memory to two parameters, or memory in another order.
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        else:
            parameter.grad += gradient


def _gradient_stats(parameters: list[torch.nn.Parameter]) -> GradientStats:
    gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    mean, variance, norm = torch.stack([gradients.mean(), gradients.var(), gradients.norm()]).tolist()
    return GradientStats(mean=mean, variance=variance, norm=norm)
