"""One epoch's gradient steps: passes over minibatches of a rollout's segments; `gradient_step.py` has the step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from metta_train.experience.minibatches import annealed_beta, draw_minibatches
from metta_train.experience.segment_buffer import Segments
from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors
from metta_train.ppo.diagnostics import explained_variance
from metta_train.specs.records import GradientStats, HyperparameterValues, UpdateStats
from metta_train.training.batching import BatchPlan
from metta_train.training.config import PPOConfig, PrioritizedReplayConfig, TrainerConfig
from metta_train.training.gradient_step import GradientStep, NonFiniteStepError
from metta_train.training.learners.network_pass import NetworkPass
from metta_train.training.losses import Column
from metta_train.training.nonfinite import NonFiniteError, find_nonfinite
from metta_train.training.optimizer_threads import OptimizerThreads
from metta_train.training.optimizers import PolicyOptimizer
from metta_train.training.recording import Recorder

logger = logging.getLogger(__name__)

SMALLER_STEPS = "try a smaller trainer.optimizer.learning_rate or trainer.ppo.max_grad_norm"
ALL_SKIPPED = "every gradient step of the epoch was skipped: none had finite numbers"


@dataclass(frozen=True, slots=True)
class Update:
    """What one call of `PolicyUpdater.update` brings."""

    stats: UpdateStats
    gradients: GradientStats | None
    seconds: float


class PolicyUpdater:
    """Improves one policy from rollouts of one size.

    Args:
        policy: on its device.
        step: the gradient steps.
        optimizer: whose learning rate follows the schedule.
        plan: sizes.
        ppo: where an early end is set.
        replay: how segments are drawn.
        update_epochs: passes over the segments.
        generator: draws them.
        nonfinite: "skip" leaves out gradient steps whose numbers are not finite; else they end the update.
        check: called before every gradient step; what it raises abandons the update.
    """

    def __init__(
        self,
        policy: Policy,
        step: GradientStep,
        optimizer: PolicyOptimizer,
        plan: BatchPlan,
        ppo: PPOConfig,
        replay: PrioritizedReplayConfig,
        update_epochs: int,
        generator: torch.Generator,
        nonfinite: Literal["stop", "skip", "rollback"] = "stop",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._policy = policy
        self._step = step
        self._optimizer = optimizer
        self._plan = plan
        self._ppo = ppo
        self._replay = replay
        self._update_epochs = update_epochs
        self._generator = generator
        self._skips = nonfinite == "skip"
        self._check = check

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
        advantages = self._step.advantages(segments, torch.ones_like(segments.log_probs))
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
                try:
                    row = self._step(segments.select(index), returns[index], weights, values)
                except NonFiniteStepError as error:
                    self._report(str(error), SMALLER_STEPS)
                    skipped += 1
                    continue
                rows.append(row)
                kl_so_far.append(row[Column.APPROX_KL])
            epochs_done += 1
            if not rows:
                raise NonFiniteError(ALL_SKIPPED)
            if self._ppo.target_kl is not None and torch.stack(kl_so_far).mean() > self._ppo.target_kl:
                break
        return Update(
            stats=self._stats(rows, segments, returns, values, epochs_done, skipped),
            gradients=_gradient_stats(self._policy) if gradient_stats else None,
            seconds=perf_counter() - started,
        )

    def _report(self, what: str, advice: str) -> None:
        """Raise, or warn where the steps that it spoils are skipped."""
        if not self._skips:
            raise NonFiniteError(f"{what}; {advice}, or trainer.nonfinite=skip or rollback")
        logger.warning("%s; the gradient steps that it spoils are skipped", what)

    def _stats(
        self,
        rows: list[Tensor],
        segments: Segments,
        returns: Tensor,
        values: HyperparameterValues,
        epochs_done: int,
        skipped: int,
    ) -> UpdateStats:
        table = torch.stack(rows).cpu()
        finite = torch.isfinite(table).all(dim=1)
        if not bool(finite.all()):  # on CUDA, where the steps did not look; the optimizer left them out
            step = int((~finite).nonzero()[0])
            column = int((~torch.isfinite(table[step])).nonzero()[0])
            name, value = Column(column).name.lower(), table[step, column].item()
            self._report(f"{name} is {value} in gradient step {step + 1} of {len(rows)}", SMALLER_STEPS)
            skipped += len(rows) - int(finite.sum())
            table = table[finite]
            if not len(table):
                raise NonFiniteError(ALL_SKIPPED)
        means = table.mean(dim=0).tolist()
        return UpdateStats(
            policy_loss=means[Column.POLICY_LOSS],
            value_loss=means[Column.VALUE_LOSS],
            entropy=means[Column.ENTROPY],
            approx_kl=means[Column.APPROX_KL],
            clipfrac=means[Column.CLIPFRAC],
            importance=means[Column.IMPORTANCE],
            current_logprobs=means[Column.CURRENT_LOGPROBS],
            explained_variance=float(explained_variance(segments.values, returns)),
            grad_norm=means[Column.GRAD_NORM],
            l2_reg_loss=means[Column.L2_REG_LOSS] if values.ppo_l2_reg_loss_coef > 0 else None,
            l2_init_loss=means[Column.L2_INIT_LOSS] if values.ppo_l2_init_loss_coef > 0 else None,
            num_minibatches=len(table),
            skipped_minibatches=skipped,
            update_epochs=epochs_done,
        )


def build_updater(
    policy: Policy,
    optimizer: PolicyOptimizer,
    anchors: WeightAnchors,
    network: NetworkPass,
    plan: BatchPlan,
    trainer: TrainerConfig,
    clip_range: float,
    generator: torch.Generator,
    check: Callable[[], None] = lambda: None,
    record: Recorder | None = None,
) -> PolicyUpdater:
    """The updater that the configuration describes."""
    threads = OptimizerThreads(plan.threads)
    step = GradientStep(policy, optimizer, anchors, network, trainer.ppo, trainer.vtrace, clip_range, threads, record)
    replay = trainer.prioritized_experience_replay
    return PolicyUpdater(
        policy, step, optimizer, plan, trainer.ppo, replay, trainer.update_epochs, generator, trainer.nonfinite, check
    )


def _gradient_stats(policy: Policy) -> GradientStats:
    gradients = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    mean, variance, norm = torch.stack([gradients.mean(), gradients.var(), gradients.norm()]).tolist()
    return GradientStats(mean=mean, variance=variance, norm=norm)
