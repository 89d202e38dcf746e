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

from metta_train.envs.vector import WorkerError
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
from metta_train.training.spikes import SpikeWatch
from metta_train.training.stopping import StopRequest, StopRequested
from metta_train.training.training_state import KeptState, Standing
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
        keep: copies everything as it stands between two epochs.
        save: writes a checkpoint of what was kept, given whether it is the last one; returns its folder, or None
            when the disk refused and the training may go on.
        evaluate: plays evaluation episodes with the present weights, given the epoch.
        standing: where the run stands; at the start when it does not continue.
        stop: asks the loop to end.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        policy: Policy,
        collector: RolloutCollector,
        updater: PolicyUpdater,
        schedules: Schedules,
        reporters: Reporters,
        keep: Callable[[Standing], KeptState],
        save: Callable[[KeptState, bool], Path | None],
        evaluate: Callable[[int], EvaluationScores],
        standing: Standing,
        stop: StopRequest,
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._collector = collector
        self._updater = updater
        self._schedules = schedules
        self._reporters = reporters
        self._keep = keep
        self._save = save
        self._evaluate = evaluate
        self._stop = stop
        self._spikes = SpikeWatch()
        self.standing = standing
        self.elapsed = 0.0  # wall seconds of `epochs` so far
        self._written_epoch = standing.progress.epoch  # the newest epoch of which there is a checkpoint

    @property
    def progress(self) -> Progress:
        """The counters of the last whole epoch."""
        return self.standing.progress

    def epochs(self) -> Iterator[EpochRecord]:
        """Train to `total_timesteps`, epoch by epoch. The last rollout may overshoot; nothing of it is wasted.

        Raises:
            StopRequested: somebody asked for it; the last whole epoch is saved.
            WorkerError: the environments or learners cannot go on; the last whole epoch is saved.
        """
        self._run_started = self._epoch_started = perf_counter()
        kept = self._keep(self.standing)
        try:
            while not self._finished():
                record, due = self._epoch()
                kept = self._keep(self.standing)
                # Told before saved: a run that continues from the checkpoint finds all epochs before it in the metrics.
                self._reporters.record(record)
                if due:
                    self._checkpoint(kept, last=self._finished())
                yield record
                if not self._finished():
                    self._stop.check()
        except (StopRequested, WorkerError):
            self._checkpoint(kept, last=True)
            raise

    def _epoch(self) -> tuple[EpochRecord, bool]:
        """One epoch, and whether it is to be saved. The standing changes at its end, all at once."""
        epoch = self.progress.epoch + 1
        share_done = self.progress.agent_step / self._plan.total_timesteps
        values = self._schedules.at(share_done)
        with profiled_epoch(self._plan.profile_folder, epoch, self._plan.profile_interval):
            rollout = self._collector.collect()
            update = self._updater.update(
                rollout.segments, values, share_done, gradient_stats=_due(epoch, self._plan.gradient_stats_interval)
            )
            if update.stats.skipped_minibatches:
                self._collector.forget_nonfinite()
        self._spikes.look(epoch, update.stats)
        evaluation = self.standing.evaluation
        if _due(epoch, self._plan.evaluate_interval):
            evaluation = self._evaluate(epoch)
        epoch_ended = perf_counter()
        seconds, self._epoch_started = epoch_ended - self._epoch_started, epoch_ended
        self.elapsed = epoch_ended - self._run_started
        progress = self._advance(rollout, update, seconds)
        due = _due(epoch, self._plan.checkpoint_interval) or progress.agent_step >= self._plan.total_timesteps
        before = self.standing
        self.standing = Standing(
            progress=progress,
            evaluation=evaluation,
            latest_saved_epoch=epoch if due else before.latest_saved_epoch,
            reward=_mean_reward(rollout, before.reward),
        )
        return self._record(values, rollout, update, seconds, before.latest_saved_epoch), due

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

    def _checkpoint(self, kept: KeptState, *, last: bool) -> None:
        """Write what was kept, unless it is written or there is nothing to lose."""
        progress = kept.standing.progress
        if progress.epoch == self._written_epoch:
            return
        folder = self._save(kept, last)
        if folder is None:
            return
        self._written_epoch = progress.epoch
        self._reporters.checkpoint_saved(folder, progress.epoch, progress.agent_step)

    def _record(
        self,
        values: HyperparameterValues,
        rollout: Rollout,
        update: Update,
        seconds: float,
        latest_saved_epoch: int,
    ) -> EpochRecord:
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
            latest_saved_epoch=latest_saved_epoch,
            weights=weight_metrics(self._policy) if _due(epoch, self._plan.analyze_weights_interval) else (),
            gradients=update.gradients,
            evaluation=self.standing.evaluation,
        )


def _mean_reward(rollout: Rollout, before: float | None) -> float | None:
    rewards = [episode.reward for episode in rollout.stats.episodes if not episode.shortened]
    return sum(rewards) / len(rewards) if rewards else before


def _due(epoch: int, interval: int) -> bool:
    return interval > 0 and epoch % interval == 0
