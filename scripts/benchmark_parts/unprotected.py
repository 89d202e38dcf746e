"""Our loop without anything that reliability costs: nothing kept, logged, marked, guarded, supervised or saved.

The same network, environments, seeds and numbers as `assembly.run.train`, so that both do the same work to the bit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from metta_train.assembly.design import Design, design_of, recipe_of
from metta_train.assembly.run_reports import header_of
from metta_train.assembly.starting_point import training_state
from metta_train.assembly.streams import MINIBATCHES, RANK, SAMPLING
from metta_train.envs.factory import environment_factory
from metta_train.envs.in_process import InProcessVectorEnv
from metta_train.envs.logged_vector import LoggedVectorEnv
from metta_train.envs.vector import VectorEnv, VectorStep
from metta_train.envs.worker_messages import StepEnvs
from metta_train.envs.workers import WorkerVectorEnv
from metta_train.reporting.console import stderr_console
from metta_train.reporting.run_reporting import build_reporting
from metta_train.run_config import RunConfig
from metta_train.specs.records import EpisodeRecord, EpochRecord
from metta_train.training import update
from metta_train.training.learners import network_pass
from metta_train.training.learners.build import build_network_pass
from metta_train.training.rollout import build_collector
from metta_train.training.run_folder import RunFolder
from metta_train.training.stopping import StopRequest
from metta_train.training.trainer import Trainer, TrainingPlan
from metta_train.training.training_state import KeptState, Standing
from metta_train.training.update import build_updater


def train_unprotected(config: RunConfig) -> Generator[EpochRecord, None, None]:
    """One record per epoch. What stays: the look at each gradient step's loss and norm, two numbers."""
    design = design_of(config)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.open(config.data_dir, config.run))  # for the metrics file
        epochs = _trainer(design, folder, stack).epochs()
        while True:
            with (
                patch.object(update, "find_nonfinite", _find_nothing),
                patch.object(network_pass, "signals_held", nullcontext),
            ):
                record = next(epochs, None)
            if record is None:
                return
            yield record


def _find_nothing(*_: object) -> None:
    return None


def _trainer(design: Design, folder: RunFolder, stack: ExitStack) -> Trainer:
    """As `assembly.trainer.build_trainer`, with collaborators that keep and save nothing."""
    config, plan, policy = design.config, design.plan, design.policy
    trainer = config.trainer
    state = training_state(design, None, None)
    env = stack.enter_context(_envs(design))
    collector = build_collector(env, policy, plan, state.generators[SAMPLING])
    start = state.keep(Standing(), collector.memory())

    def keep(standing: Standing) -> KeptState:
        return start

    def save(kept: KeptState, last: bool) -> Path | None:
        return None

    def evaluate(epoch: int) -> NoReturn:
        raise AssertionError("the cost is measured without evaluations")

    reporting = build_reporting(stderr_console(), folder.paths.metrics, config.wandb)
    built = Trainer(
        plan=TrainingPlan(
            total_timesteps=trainer.total_timesteps,
            checkpoint_interval=0,
            evaluate_interval=0,
            analyze_weights_interval=config.chosen_agent.analyze_weights_interval,
            gradient_stats_interval=trainer.grad_mean_variance_interval,
            profile_interval=0,
            profile_folder=folder.paths.folder,
        ),
        policy=policy,
        collector=collector,
        updater=build_updater(
            policy,
            state.optimizer,
            state.anchors,
            stack.enter_context(build_network_pass(policy, recipe_of(design), plan)),
            plan,
            trainer,
            config.chosen_agent.clip_range,
            state.generators[MINIBATCHES],
        ),
        schedules=design.schedules,
        reporters=reporting.reporters,
        keep=keep,
        save=save,
        evaluate=evaluate,
        standing=Standing(),
        stop=StopRequest(),
    )
    reporting.reporters.start(header_of(design, folder, built.progress))
    return built


class _Unlogged(LoggedVectorEnv):
    """Writes no actions down."""

    def send(self, index: int, actions: NDArray[np.int32] | NDArray[np.int64]) -> None:
        self._buffers.actions[self.slice_rows(index)] = actions
        self._send(index)

    def receive(self, index: int) -> VectorStep:
        return self._buffers.step_of(self.slice_rows(index), self._receive(index))


class _InProcess(_Unlogged, InProcessVectorEnv):
    pass


class _Workers(_Unlogged, WorkerVectorEnv):
    """Waits for one worker after the other, for ever, and looks at nothing else meanwhile."""

    def _send(self, index: int) -> None:
        for worker in self._workers:
            if worker.envs[index]:
                worker.child.connection.send(StepEnvs(index))

    def _receive(self, index: int) -> Sequence[EpisodeRecord]:
        answers = [worker.child.connection.recv() for worker in self._workers if worker.envs[index]]
        return sorted((episode for answer in answers for episode in answer.episodes), key=lambda episode: episode.env)


def _envs(design: Design) -> VectorEnv:
    env, plan = design.config.env, design.plan
    spec, make = environment_factory(env)
    sizes = {"num_envs": plan.num_envs, "num_slices": plan.num_slices, "seed": design.config.seed, "rank": RANK}
    if plan.num_workers == 0:
        return _InProcess(spec, make, desync_episodes=env.desync_episodes, **sizes)
    return _Workers(spec, env, num_workers=plan.num_workers, check=lambda: None, **sizes)
