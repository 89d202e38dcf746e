"""The one place that builds env, policy and trainer from a RunConfig."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from metta_train.envs.build import environment_spec, make_vector_env
from metta_train.experience.segment_buffer import SegmentBuffer
from metta_train.policies.build import build_policy_from
from metta_train.policies.policy import Policy
from metta_train.policies.uniform import UniformPolicy
from metta_train.policies.weights import WeightAnchors
from metta_train.reporting.console import stderr_console
from metta_train.reporting.next_commands import continue_commands
from metta_train.reporting.reporter import RunHeader, RunOutcome
from metta_train.reporting.run_logging import run_logging
from metta_train.reporting.run_reporting import RunReporting, build_reporting
from metta_train.reporting.storage import StorageError
from metta_train.run_config import RunConfig
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import EpochRecord, EvaluationScores, Progress
from metta_train.training import checkpoints
from metta_train.training.batching import BatchPlan, plan_batches
from metta_train.training.checkpoints import Checkpoint
from metta_train.training.evaluation import evaluate
from metta_train.training.optimizers import build_optimizer
from metta_train.training.resources import choose_device, measure_resources
from metta_train.training.rollout import RolloutCollector
from metta_train.training.run_folder import RunFolder, RunState, RunStatus
from metta_train.training.schedules import Schedules
from metta_train.training.trainer import Trainer, TrainingPlan
from metta_train.training.training_state import TrainingState, restore_weights
from metta_train.training.update import PolicyUpdater

logger = logging.getLogger(__name__)

# The streams of the run's seed (specs/random_streams.py).
RANK = 0
SAMPLING = "sampling"
MINIBATCHES = "minibatches"


@dataclass(frozen=True, slots=True)
class _Design:
    """What is decided before anything is written: a user's mistake in it costs nothing."""

    config: RunConfig
    spec: EnvironmentSpec
    device: torch.device
    plan: BatchPlan
    policy: Policy
    schedules: Schedules


def build_policy(config: RunConfig, spec: EnvironmentSpec, seed: int | None = None) -> Policy:
    """The policy of a run for any environment of its kind, on the CPU.

    Args:
        config: of which the agent is used.
        spec: what the policy may know of the environment.
        seed: of the initial weights; None takes the run's.

    Raises:
        ValueError: the agent does not fit the environment.
    """
    return build_policy_from(config.chosen_agent, spec, config.seed if seed is None else seed)


def train(config: RunConfig, command: Sequence[str] = ()) -> Generator[EpochRecord, None, RunOutcome]:
    """Train, or continue the run of this name from its newest good checkpoint.

    Args:
        config: the whole run.
        command: how the program was called; recorded, and suggested again at the end.

    Yields:
        One record per epoch.

    Returns:
        How it ended.

    Raises:
        ValueError: something in the configuration does not fit; nothing was written.
        RunLockedError, StorageError, NoUsableCheckpointError, NonFiniteError, WorkerError: as their classes say.
    """
    design = _design(config)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.open(config.data_dir, config.run))
        progress_console = stderr_console()
        stack.enter_context(run_logging(folder.paths.log, progress_console))
        checkpoints.remove_unfinished(folder.paths.checkpoints)
        checkpoint = checkpoints.newest_good(folder.paths.checkpoints)
        changes = folder.adopt_config(config.plain(), resuming=checkpoint is not None)
        folder.record_invocation(command)
        if checkpoint is not None:
            logger.info("continuing from %s", checkpoint.path)
        for change in changes:
            logger.info("changed since the last start: %s", change)
        reporting = build_reporting(
            progress_console,
            folder.paths.metrics,
            config.wandb,
            wandb_run_id=None if checkpoint is None else checkpoint.state.wandb_run_id,
            upload_interval=config.trainer.checkpoint.wandb_checkpoint_interval,
        )
        progress = Progress() if checkpoint is None else checkpoint.state.progress
        trainer = _trainer(design, folder, _training_state(design, checkpoint), progress, reporting, stack)
        reporting.reporters.start(_header(design, folder, progress))
        reward: float | None = None
        try:
            for record in trainer.epochs():
                reward = _mean_reward(record, reward)
                folder.write_status(_status("running", trainer, config, reward))
                yield record
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | GeneratorExit)
            message = f"{type(error).__name__}: {error}".removesuffix(": ")
            outcome = _outcome("interrupted" if stopped else "failed", trainer, folder, config, command, message)
            reporting.reporters.finish(outcome)
            with suppress(StorageError):  # perhaps the very reason why it failed; the error itself is what matters
                folder.write_status(_status(outcome.state, trainer, config, reward, message))
            raise
        outcome = _outcome("done", trainer, folder, config, command)
        folder.write_status(_status("done", trainer, config, reward))
        reporting.reporters.finish(outcome)
        return outcome


def random_policy_score(config: RunConfig, *, num_episodes: int) -> float:
    """Mean episode reward per agent of the uniform random policy on a run's environment."""
    spec = environment_spec(config.env)
    with make_vector_env(
        config.env, num_envs=num_episodes, num_workers=0, num_slices=1, seed=derived_seed(config.seed, "evaluation")
    ) as env:
        scores = evaluate(
            UniformPolicy(spec),
            env,
            num_episodes=num_episodes,
            device=torch.device("cpu"),
            generator=torch.Generator().manual_seed(derived_seed(config.seed, "evaluation", SAMPLING)),
            category=spec.name,
            epoch=0,
        )
    return scores.score


def _design(config: RunConfig) -> _Design:
    device = choose_device(config.device)
    spec = environment_spec(config.env)
    plan = plan_batches(config.trainer, spec, measure_resources(device))
    _configure_torch(config, plan)
    policy = build_policy(config, spec).to(device)
    trainer = config.trainer
    return _Design(
        config=config,
        spec=spec,
        device=device,
        plan=plan,
        policy=policy,
        schedules=Schedules(trainer.hyperparameter_scheduler, trainer.optimizer, trainer.ppo),
    )


def _configure_torch(config: RunConfig, plan: BatchPlan) -> None:
    torch.set_num_threads(plan.learner_threads)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32; the CPU stays exact
    if config.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with a fixed workspace
    torch.use_deterministic_algorithms(config.torch_deterministic)
    # Filling fresh memory costs time, and nothing here reads memory that it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # no stub


def _training_state(design: _Design, checkpoint: Checkpoint | None) -> TrainingState:
    config, policy = design.config, design.policy
    initial = config.trainer.initial_policy.uri
    if checkpoint is None and initial is not None:
        restore_weights(policy, checkpoints.load(Path(initial.removeprefix("file://"))))
    state = TrainingState(
        policy=policy,
        optimizer=build_optimizer(config.trainer.optimizer, policy),
        anchors=WeightAnchors.of(policy),
        generators={
            # Actions are drawn where the logits are; minibatches are drawn on the CPU.
            SAMPLING: _generator(config, design.device, SAMPLING),
            MINIBATCHES: _generator(config, torch.device("cpu"), MINIBATCHES),
        },
        agent=config.agent_name,
        seed=config.seed,
    )
    if checkpoint is not None:
        state.restore(checkpoint)
    return state


def _generator(config: RunConfig, device: torch.device, stream: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(derived_seed(config.seed, "rank", RANK, stream))


def _trainer(
    design: _Design,
    folder: RunFolder,
    state: TrainingState,
    progress: Progress,
    reporting: RunReporting,
    stack: ExitStack,
) -> Trainer:
    config, plan, policy = design.config, design.plan, design.policy
    trainer = config.trainer
    # A continued run must not meet the episodes of its first start again.
    env_seed = config.seed if progress.agent_step == 0 else derived_seed(config.seed, "continued", progress.agent_step)
    env = stack.enter_context(
        make_vector_env(
            config.env,
            num_envs=plan.num_envs,
            num_workers=plan.num_workers,
            num_slices=plan.num_slices,
            seed=env_seed,
            rank=RANK,
        )
    )
    buffer = SegmentBuffer(
        plan.rows,
        plan.steps,
        plan.bptt_horizon,
        design.spec.observation.shape,
        torch.from_numpy(np.empty(0, dtype=design.spec.observation.dtype)).dtype,
        policy.state_shapes,
        design.device,
    )

    def save(progress: Progress, evaluation: EvaluationScores | None) -> Path:
        return state.save(folder.paths.checkpoints, progress, evaluation, reporting.wandb_run_id)

    return Trainer(
        plan=TrainingPlan(
            total_timesteps=trainer.total_timesteps,
            checkpoint_interval=trainer.checkpoint.checkpoint_interval,
            evaluate_interval=trainer.simulation.evaluate_interval,
            analyze_weights_interval=config.chosen_agent.analyze_weights_interval,
            gradient_stats_interval=trainer.grad_mean_variance_interval,
            profile_interval=trainer.profiler.interval_epochs,
            profile_folder=folder.paths.folder / "torch_traces",
        ),
        policy=policy,
        collector=RolloutCollector(env, policy, buffer, design.device, state.generators[SAMPLING], plan.precision),
        updater=PolicyUpdater(
            policy,
            state.optimizer,
            state.anchors,
            plan,
            trainer.ppo,
            trainer.vtrace,
            trainer.prioritized_experience_replay,
            trainer.update_epochs,
            config.chosen_agent.clip_range,
            state.generators[MINIBATCHES],
        ),
        schedules=design.schedules,
        reporters=reporting.reporters,
        save=save,
        evaluate=lambda epoch: _evaluate(design, epoch),
        progress=progress,
    )


def _evaluate(design: _Design, epoch: int) -> EvaluationScores:
    config = design.config
    episodes = config.trainer.simulation.num_episodes
    # The same episodes every time, with the same sampling noise: scores differ by the weights alone.
    with make_vector_env(
        config.env, num_envs=episodes, num_workers=0, num_slices=1, seed=derived_seed(config.seed, "evaluation")
    ) as env:
        return evaluate(
            design.policy,
            env,
            num_episodes=episodes,
            device=design.device,
            generator=_generator(config, design.device, "evaluation"),
            category=design.spec.name,
            epoch=epoch,
        )


def _header(design: _Design, folder: RunFolder, progress: Progress) -> RunHeader:
    config, device = design.config, design.device
    return RunHeader(
        run=config.run,
        folder=folder.paths.folder,
        agent=config.agent_name,
        environment=design.spec.name,
        device=f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device),
        total_parameters=sum(p.numel() for p in design.policy.parameters() if p.requires_grad),
        total_timesteps=config.trainer.total_timesteps,
        start_epoch=progress.epoch,
        start_agent_step=progress.agent_step,
        config=config.plain(),
        plan=(design.plan.describe(),),
    )


def _mean_reward(record: EpochRecord, before: float | None) -> float | None:
    rewards = [episode.reward for episode in record.rollout.episodes if not episode.shortened]
    return sum(rewards) / len(rewards) if rewards else before


def _status(
    state: RunState, trainer: Trainer, config: RunConfig, reward: float | None, message: str | None = None
) -> RunStatus:
    return RunStatus(
        state=state,
        epoch=trainer.progress.epoch,
        agent_step=trainer.progress.agent_step,
        total_timesteps=config.trainer.total_timesteps,
        reward=reward,
        message=message,
    )


def _outcome(
    state: Literal["done", "interrupted", "failed"],
    trainer: Trainer,
    folder: RunFolder,
    config: RunConfig,
    command: Sequence[str],
    message: str = "",
) -> RunOutcome:
    saved = checkpoints.checkpoint_folders(folder.paths.checkpoints)
    return RunOutcome(
        state=state,
        epoch=trainer.progress.epoch,
        agent_step=trainer.progress.agent_step,
        elapsed=trainer.elapsed,
        message=message,
        checkpoint=saved[-1] if saved else None,
        next_commands=continue_commands(
            command or ("metta-train",),
            run=config.run,
            total_timesteps=config.trainer.total_timesteps,
            agent_step=trainer.progress.agent_step,
        ),
    )
