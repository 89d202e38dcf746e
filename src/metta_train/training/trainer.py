"""The training loop.

Words, here as in config keys, metrics and docs:

run             one training with one name and one folder
epoch           one rollout plus the updates on it; the unit of every `*_interval`
rollout         collecting `batch_size` agent steps
agent step      one action of one agent
row             one agent slot of the vector env
segment         `bptt_horizon` consecutive steps of one row, the unit of backpropagation through time
minibatch       the segments of one gradient step
update epoch    one pass over all segments of a rollout
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from metta_train.policies.policy import Policy
from metta_train.policies.weights import weight_metrics
from metta_train.reporting.reporter import Reporters
from metta_train.specs.records import (
    EpochRecord,
    EpochTiming,
    EvaluationScores,
    HyperparameterValues,
    Progress,
)
from metta_train.training.profiler import profiled_epoch
from metta_train.training.rollout import Rollout, RolloutCollector
from metta_train.training.schedules import Schedules
from metta_train.training.update import PolicyUpdater, Update


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long to train and what to do every so many epochs (0 = never)."""

    total_timesteps: int
    checkpoint_interval: int
    evaluate_interval: int
    analyze_weights_interval: int
    gradient_stats_interval: int
    profile_interval: int
    profile_folder: Path


class Trainer:
    """Trains one policy; all collaborators come finished.

    Args:
        plan: durations and intervals.
        policy: on its device.
        collector: collects rollouts with the policy.
        updater: improves the policy from them.
        schedules: the values that change during a run.
        reporters: hear of every epoch and checkpoint.
        save: writes a checkpoint of everything and returns its folder.
        evaluate: plays evaluation episodes with the present weights, given the epoch.
        progress: where the run stands; not zero when it continues.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        policy: Policy,
        collector: RolloutCollector,
        updater: PolicyUpdater,
        schedules: Schedules,
        reporters: Reporters,
        save: Callable[[Progress, EvaluationScores | None], Path],
        evaluate: Callable[[int], EvaluationScores],
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._collector = collector
        self._updater = updater
        self._schedules = schedules
        self._reporters = reporters
        self._save = save
        self._evaluate = evaluate
        self.progress = progress
        self.elapsed = 0.0  # wall seconds of `epochs` so far
        self._saved_epoch = progress.epoch
        self._evaluation: EvaluationScores | None = None

    def epochs(self) -> Iterator[EpochRecord]:
        """Train to `total_timesteps`, epoch by epoch. The last rollout may overshoot; nothing of it is wasted."""
        run_started = epoch_started = perf_counter()
        while self.progress.agent_step < self._plan.total_timesteps:
            epoch = self.progress.epoch + 1
            share_done = self.progress.agent_step / self._plan.total_timesteps
            values = self._schedules.at(share_done)
            with profiled_epoch(self._plan.profile_folder, epoch, self._plan.profile_interval):
                rollout = self._collector.collect()
                update = self._updater.update(
                    rollout.segments, values, share_done, gradient_stats=_due(epoch, self._plan.gradient_stats_interval)
                )
            if _due(epoch, self._plan.evaluate_interval):
                self._evaluation = self._evaluate(epoch)
            epoch_ended = perf_counter()
            seconds, epoch_started = epoch_ended - epoch_started, epoch_ended
            self.elapsed = epoch_ended - run_started
            self.progress = self._advance(rollout, update, seconds)
            record = self._record(values, rollout, update, seconds)
            # Told before saved: a run that continues from the checkpoint finds every epoch before it in the metrics.
            self._reporters.record(record)
            if _due(epoch, self._plan.checkpoint_interval) or self._finished():
                self._checkpoint()
            yield record

    def _finished(self) -> bool:
        return self.progress.agent_step >= self._plan.total_timesteps

    def _advance(self, rollout: Rollout, update: Update, seconds: float) -> Progress:
        return replace(
            self.progress,
            epoch=self.progress.epoch + 1,
            agent_step=self.progress.agent_step + rollout.stats.agent_steps,
            optimizer_steps=self.progress.optimizer_steps + update.stats.num_minibatches,
            train_time=self.progress.train_time + rollout.seconds + update.seconds,
            total_time=self.progress.total_time + seconds,
        )

    def _checkpoint(self) -> None:
        folder = self._save(self.progress, self._evaluation)
        self._saved_epoch = self.progress.epoch
        self._reporters.checkpoint_saved(folder, self.progress.epoch, self.progress.agent_step)

    def _record(self, values: HyperparameterValues, rollout: Rollout, update: Update, seconds: float) -> EpochRecord:
        epoch = self.progress.epoch
        return EpochRecord(
            epoch=epoch,
            agent_step=self.progress.agent_step,
            total_timesteps=self._plan.total_timesteps,
            rollout=rollout.stats,
            update=update.stats,
            hyperparameters=values,
            timing=EpochTiming(
                rollout=rollout.seconds,
                rollout_env=rollout.env_seconds,
                train=update.seconds,
                other=max(0.0, seconds - rollout.seconds - update.seconds),
                total=seconds,
                elapsed=self.elapsed,
                train_time=self.progress.train_time,
                total_time=self.progress.total_time,
            ),
            latest_saved_epoch=self._saved_epoch,
            weights=weight_metrics(self._policy) if _due(epoch, self._plan.analyze_weights_interval) else (),
            gradients=update.gradients,
            evaluation=self._evaluation,
        )


def _due(epoch: int, interval: int) -> bool:
    return interval > 0 and epoch % interval == 0
