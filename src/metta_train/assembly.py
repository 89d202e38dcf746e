"""The one place that builds env, policy and trainer from a RunConfig."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from metta_train.envs.build import environment_spec, make_vector_env
from metta_train.envs.vector import ResumableVectorEnv
from metta_train.experience.segment_buffer import SegmentBuffer
from metta_train.playback.episodes import Player
from metta_train.playback.evaluation_film import film_episode, require_pictures
from metta_train.policies.build import build_policy_from
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.policies.policy import Policy
from metta_train.policies.uniform import UniformPolicy
from metta_train.policies.weights import WeightAnchors
from metta_train.reporting.console import stderr_console
from metta_train.reporting.next_commands import next_commands
from metta_train.reporting.redaction import redact_config
from metta_train.reporting.reporter import Reporters, RunHeader, RunOutcome
from metta_train.reporting.run_logging import run_logging
from metta_train.reporting.run_reporting import RunReporting, build_reporting
from metta_train.reporting.storage import StorageError
from metta_train.reporting.tensorboard import require_tensorboard
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import nearest_path
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import EpochRecord, EvaluationScores, Progress
from metta_train.training import checkpoints
from metta_train.training.allocator import keep_freed_memory
from metta_train.training.batching import BatchPlan, MemoryExhaustedError, plan_batches
from metta_train.training.checkpoint_listing import best_checkpoint, list_checkpoints, newest_checkpoint
from metta_train.training.checkpoint_writer import CheckpointWriter
from metta_train.training.checkpoints import Checkpoint
from metta_train.training.evaluation import SEED as EVALUATION_SEED
from metta_train.training.evaluation import EvaluationEnv, evaluate
from metta_train.training.memory import ExpectedMemory, expected_memory
from metta_train.training.nonfinite import NonFiniteError
from metta_train.training.optimizers import build_optimizer
from metta_train.training.parity.same_network import check_same_network
from metta_train.training.random_states import seed_global_generators
from metta_train.training.recent_rewards import RecentRewards
from metta_train.training.resources import choose_device, measure_resources
from metta_train.training.retention import Retention
from metta_train.training.rollout import RolloutCollector, RolloutStart, RowMemory
from metta_train.training.run_folder import (
    RunFolder,
    RunPaths,
    RunState,
    RunStatus,
    check_config_changes,
    config_changes,
    free_run_name,
    read_config,
)
from metta_train.training.schedules import Schedules
from metta_train.training.stopping import StopRequest, StopRequested
from metta_train.training.trainer import Trainer, TrainingPlan
from metta_train.training.training_state import (
    KeptState,
    Standing,
    TrainingState,
    copy_weights,
    data_seed_of,
    envs_of,
    memory_of,
    recent_rewards_of,
    restore_weights,
    standing_of,
)
from metta_train.training.update import PolicyUpdater

logger = logging.getLogger(__name__)

# The streams of the run's seed (specs/random_streams.py).
RANK = 0
SAMPLING = "sampling"
MINIBATCHES = "minibatches"

MAX_ROLLBACKS = 3  # of one process, with trainer.nonfinite=rollback


@dataclass(frozen=True, slots=True)
class _Design:
    """What is decided before anything is written: a user's mistake in it costs nothing."""

    config: RunConfig
    spec: EnvironmentSpec
    device: torch.device
    plan: BatchPlan
    policy: Policy
    schedules: Schedules
    evaluation_envs: tuple[EvaluationEnv, ...]


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


def train(
    config: RunConfig, command: Sequence[str] = (), stop: StopRequest | None = None
) -> Generator[EpochRecord, None, RunOutcome]:
    """Train, or continue the run of this name from its newest good checkpoint.

    Args:
        config: the whole run.
        command: how the program was called; recorded, and suggested again at the end. Without it, the command line
            that composes the same configuration.
        stop: asks the training to end early; None for a training that nobody stops.

    Yields:
        One record per epoch.

    Returns:
        How it ended.

    Raises:
        ValueError: something in the configuration does not fit; nothing was written.
        StopRequested: the training was asked to end and has saved everything up to its last whole epoch.
        RunLockedError, StorageError, NoUsableCheckpointError, NonFiniteError, WorkerError: as their classes say.
    """
    stop = StopRequest() if stop is None else stop
    stop.check()
    command = command or ("metta-train", *config.origin.overrides)
    if config.restart == "new":
        config = config.model_copy(update={"run": free_run_name(config.data_dir, config.run)})
    design = _design(config)
    paths = RunPaths.locate(config.data_dir, config.run)
    if config.restart == "overwrite" or newest_checkpoint(paths.checkpoints) is None:
        _initial_policy(config)  # a mistake in it writes nothing
    stop.check()
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.open(config.data_dir, config.run))
        if config.restart == "overwrite":
            folder.clear()
        progress_console = stderr_console()
        stack.enter_context(run_logging(folder.paths.log, progress_console))
        checkpoints.remove_unfinished(folder.paths.checkpoints)
        checkpoint = checkpoints.newest_good(folder.paths.checkpoints)
        if checkpoint is not None:
            _check_kind_of_agent(design, read_config(folder.paths))
        changes = folder.adopt_config(config.plain(), resuming=checkpoint is not None)
        folder.record_invocation(command, config.origin)
        if checkpoint is not None:
            logger.info("continuing from %s", checkpoint.path)
        if config.trainer.simulation.suite is not None and config.suite is None:
            logger.warning("trainer.simulation.suite is not played: trainer.simulation.evaluate_interval is 0")
        for change in changes:
            logger.info("changed since the last start: %s", change)
        reporting = build_reporting(
            progress_console,
            folder.paths.metrics,
            config.wandb,
            wandb_run_id=None if checkpoint is None else checkpoint.state.wandb_run_id,
            upload_interval=config.trainer.checkpoint.wandb_checkpoint_interval,
            is_best=lambda path: _is_best(folder, path),
            tensorboard=config.tensorboard,
        )
        attempt = stack.enter_context(ExitStack())
        trainer = _trainer(design, folder, checkpoint, reporting, stop, attempt)
        reporting.reporters.start(_header(design, folder, trainer.progress))
        rollbacks = 0
        try:
            while True:
                try:
                    for record in trainer.epochs():
                        with suppress(StorageError):  # the checkpoints decide whether the disk is good enough
                            folder.write_status(_status("running", trainer, config))
                        yield record
                    break
                except NonFiniteError as error:
                    if config.trainer.nonfinite != "rollback" or rollbacks == MAX_ROLLBACKS:
                        raise
                    rollbacks += 1
                    logger.error("%s", error)
                attempt.close()
                trainer = _rolled_back(design, folder, rollbacks, reporting, stop, attempt)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | GeneratorExit | StopRequested)
            message = f"{type(error).__name__}: {error}".removesuffix(": ")
            outcome = _outcome("interrupted" if stopped else "failed", trainer, folder, config, command, message)
            reporting.reporters.finish(replace(outcome, patience=_patience(error)))
            with suppress(StorageError):  # perhaps the very reason why it failed; the error itself is what matters
                folder.write_status(_status(outcome.state, trainer, config, message))
            if isinstance(error, StopRequested):
                steps = f"{trainer.progress.agent_step:,} agent steps"
                raise StopRequested(f"{error} at {steps}; nothing is lost, the same command goes on") from None
            if (reason := _memory_exhausted(error)) is not None:
                raise MemoryExhaustedError(design.plan.when_memory_is_exhausted(reason)) from error
            raise
        outcome = _outcome("done", trainer, folder, config, command)
        folder.write_status(_status("done", trainer, config))
        reporting.reporters.finish(outcome)
        return outcome


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a training would be. Everything was built and one step was taken; nothing was written.

    Attributes:
        spec: of the environment.
        device: where it would train, for people.
        plan: the sizes.
        parameters: of each layer that is trained.
        memory: what it would take.
        free_memory: bytes of the device, before anything was built.
        continues_at: agent steps of the checkpoint that it would continue from; None for a new run.
    """

    spec: EnvironmentSpec
    device: str
    plan: BatchPlan
    parameters: tuple[tuple[str, int], ...]
    memory: ExpectedMemory
    free_memory: int
    continues_at: int | None


def rehearse(config: RunConfig, stop: StopRequest | None = None) -> Rehearsal:
    """Build what `train` would build, and let every agent act once.

    Raises:
        ValueError: something in the configuration does not fit, or the run of this name cannot go on with it.
        WorkerError: the environments do not start or step.
    """
    stop = StopRequest() if stop is None else stop
    paths = RunPaths.locate(config.data_dir, config.run)
    saved = newest_checkpoint(paths.checkpoints) if config.restart == "resume" else None
    if saved is not None and (before := read_config(paths)) is not None:
        check_config_changes(config.run, config_changes(before, redact_config(config.plain())))
    free_memory = measure_resources(choose_device(config.device)).free_memory
    design = _design(config)
    policy, plan = design.policy, design.plan
    if saved is not None:
        _check_kind_of_agent(design, read_config(paths))
    else:
        _take_initial_weights(config, policy)
    with make_vector_env(
        config.env,
        num_envs=plan.num_envs,
        num_workers=plan.num_workers,
        num_slices=plan.num_slices,
        seed=config.seed,
        rank=RANK,
        check=stop.check,
    ) as env:
        observations = torch.from_numpy(env.reset()).to(design.device)
        generator = _generator(config.seed, design.device, SAMPLING)
        resets = torch.ones(env.num_rows, dtype=torch.bool, device=design.device)
        with torch.no_grad():
            step = policy.act(observations, policy.initial_state(env.num_rows), resets, generator)
        actions = step.actions.cpu().numpy()
        for index in range(env.num_slices):
            env.send(index, actions[env.slice_rows(index)])
        for index in range(env.num_slices):
            env.receive(index)
        memory = expected_memory(policy, design.spec, plan, config.trainer.optimizer.type)
    layers: dict[str, int] = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            layer = name.rpartition(".")[0] or name
            layers[layer] = layers.get(layer, 0) + parameter.numel()
    return Rehearsal(
        spec=design.spec,
        device=_device_name(design.device),
        plan=plan,
        parameters=tuple(layers.items()),
        memory=memory,
        free_memory=free_memory,
        continues_at=None if saved is None else saved.agent_step,
    )


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _rolled_back(
    design: _Design, folder: RunFolder, rollbacks: int, reporting: RunReporting, stop: StopRequest, stack: ExitStack
) -> Trainer:
    """Back to the newest checkpoint, or to the start, and on with other episodes and other random numbers."""
    config = design.config
    checkpoint = checkpoints.newest_good(folder.paths.checkpoints)
    step = 0 if checkpoint is None else checkpoint.state.progress.agent_step
    logger.warning("rolled back to agent step %d, with new data (%d of %d)", step, rollbacks, MAX_ROLLBACKS)
    if checkpoint is None:
        design.policy.initialize(config.seed)
    reporting.reporters.rolled_back(step)
    data_seed = derived_seed(config.seed, "rollback", step, rollbacks)
    return _trainer(design, folder, checkpoint, reporting, stop, stack, new_data_seed=data_seed)


def _memory_exhausted(error: BaseException) -> str | None:
    """The first line of what was said when memory ran out; None when it did not."""
    # torch has no class for the memory of the host.
    host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if host or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return (str(error) or "the machine's memory").splitlines()[0][:200]
    return None


def _patience(error: BaseException) -> float | None:
    """Seconds for the reporters: who asked for the end will not wait long."""
    match error:
        case KeyboardInterrupt():
            return 0.5
        case StopRequested():
            return 5.0
    return None


def random_policy_score(config: RunConfig, *, num_episodes: int) -> float:
    """Mean episode reward per agent of the uniform random policy on a run's environment."""
    spec = environment_spec(config.env)
    scores = evaluate(
        [EvaluationEnv(spec.name, config.env, UniformPolicy(spec))],
        category=spec.name,
        num_episodes=num_episodes,
        seed=config.seed,
        device=torch.device("cpu"),
        epoch=0,
    )
    return scores.score


def _design(config: RunConfig) -> _Design:
    if config.tensorboard:
        require_tensorboard()
    if config.wandb.video_interval:
        require_pictures(config.env)
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
        evaluation_envs=_evaluation_envs(config, spec, policy),
    )


def _check_kind_of_agent(design: _Design, before: Mapping[str, object] | None) -> None:
    """A run goes on with py_agent in place of agent, or the other way round, if they are the same network."""
    now = "agent" if design.config.py_agent is None else "py_agent"
    other = "py_agent" if now == "agent" else "agent"
    if before is None or other not in before:
        return
    model = AgentConfig if other == "agent" else PyAgentConfig
    check_same_network(
        model.model_validate(before[other]),
        design.config.chosen_agent,
        design.spec,
        titles=(f"the {other} that trained run={design.config.run!r}", design.config.agent_name),
    )


def _configure_torch(config: RunConfig, plan: BatchPlan) -> None:
    keep_freed_memory()
    torch.set_num_threads(plan.learner_threads)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32; the CPU stays exact
    if config.torch_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with a fixed workspace
    torch.use_deterministic_algorithms(config.torch_deterministic)
    # Filling fresh memory costs time, and nothing here reads memory that it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # no stub


def _training_state(design: _Design, checkpoint: Checkpoint | None, new_data_seed: int | None) -> TrainingState:
    config, policy = design.config, design.policy
    if checkpoint is None:
        _take_initial_weights(config, policy)
    data_seed = new_data_seed
    if checkpoint is not None and new_data_seed is None:
        data_seed = data_seed_of(checkpoint)
    streams = config.seed if data_seed is None else data_seed
    seed_global_generators(derived_seed(streams, "rank", RANK, "global"))
    state = TrainingState(
        policy=policy,
        optimizer=build_optimizer(config.trainer.optimizer, policy),
        anchors=WeightAnchors.of(policy),
        generators={
            # Actions are drawn where the logits are; minibatches are drawn on the CPU.
            SAMPLING: _generator(streams, design.device, SAMPLING),
            MINIBATCHES: _generator(streams, torch.device("cpu"), MINIBATCHES),
        },
        agent=config.agent_name,
        seed=config.seed,
        data_seed=data_seed,
    )
    if checkpoint is not None:
        state.restore(checkpoint, random_streams=new_data_seed is None)
    return state


def _initial_policy(config: RunConfig) -> Path | None:
    """The checkpoint to take the first weights from. Raises ValueError when there is none at that place."""
    uri = config.trainer.initial_policy.uri
    if uri is None:
        return None
    path = Path(uri.removeprefix("file://"))
    if not path.is_dir():
        near = nearest_path(str(path))
        raise ValueError(f"trainer.initial_policy.uri={uri}: no such folder of a checkpoint{near}")
    if (inside := newest_checkpoint(path / "checkpoints")) is not None:
        raise ValueError(
            f"trainer.initial_policy.uri={uri}: is a run; needs one of its checkpoints, e.g. {inside.path}"
        )
    return path


def _take_initial_weights(config: RunConfig, policy: Policy) -> None:
    path = _initial_policy(config)
    if path is not None:
        restore_weights(policy, checkpoints.load(path))


def _generator(seed: int, device: torch.device, stream: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(derived_seed(seed, "rank", RANK, stream))


def _trainer(
    design: _Design,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    reporting: RunReporting,
    stop: StopRequest,
    stack: ExitStack,
    new_data_seed: int | None = None,
) -> Trainer:
    config, plan, policy = design.config, design.plan, design.policy
    trainer = config.trainer
    state = _training_state(design, checkpoint, new_data_seed)
    env = stack.enter_context(
        make_vector_env(
            config.env,
            num_envs=plan.num_envs,
            num_workers=plan.num_workers,
            num_slices=plan.num_slices,
            seed=config.seed if state.data_seed is None else state.data_seed,
            rank=RANK,
            check=stop.check,
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
    collector = RolloutCollector(
        env,
        policy,
        buffer,
        design.device,
        state.generators[SAMPLING],
        plan.precision,
        start=None if checkpoint is None or new_data_seed is not None else _rollout_start(design, env, checkpoint),
        check=stop.check,
    )

    # Told of an epoch before its checkpoint is written, like every reporter.
    recent = RecentRewards(() if checkpoint is None else recent_rewards_of(checkpoint))

    def keep(standing: Standing) -> KeptState:
        env.mark()
        return state.keep(standing, collector.memory())

    writer = CheckpointWriter(
        folder.paths.checkpoints,
        Retention.of(trainer.checkpoint),
        good=None if checkpoint is None else checkpoint.path,
        records=(folder.paths.metrics,),
    )

    def save(kept: KeptState, last: bool) -> Path | None:
        return writer.write(
            lambda path: state.save(path, kept, env.snapshot(), reporting.wandb_run_id, recent.values), last=last
        )

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
        collector=collector,
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
            trainer.nonfinite,
            check=stop.check_finishing,
        ),
        schedules=design.schedules,
        reporters=Reporters([reporting.reporters, recent]),
        keep=keep,
        save=save,
        evaluate=lambda epoch: _evaluate(design, epoch, folder, reporting, stop),
        standing=Standing() if checkpoint is None else standing_of(checkpoint),
        stop=stop,
    )


def _rollout_start(design: _Design, env: ResumableVectorEnv, checkpoint: Checkpoint) -> RolloutStart | None:
    """The environments as they stood; says so where that cannot be."""
    snapshot = envs_of(checkpoint)
    if snapshot is None:
        logger.warning("the checkpoint does not tell where the environments stood: they start anew")
        return None
    restored = env.restore(snapshot)
    reason = "their episodes cannot be played again"
    if snapshot.num_envs != env.num_envs:
        reason = f"the run had {snapshot.num_envs} of them"
    elif restored.differing:
        reason = "played again, their episodes looked different; did a version change?"
    if restored.opened:
        logger.warning(
            "%d of %d environments open a new episode (%s), so the run does not go on to the bit",
            len(restored.opened),
            env.num_envs,
            reason,
        )
    opened = torch.zeros(env.num_envs, dtype=torch.bool)
    opened[list(restored.opened)] = True
    rows = opened.repeat_interleave(env.spec.num_agents).to(design.device)
    fresh = RowMemory(torch.ones_like(rows), design.policy.initial_state(env.num_rows, design.device))
    return RolloutStart(restored.observations, memory_of(checkpoint, fresh, rows))


def _evaluation_envs(config: RunConfig, spec: EnvironmentSpec, policy: Policy) -> tuple[EvaluationEnv, ...]:
    """What an evaluation plays on. An environment that looks different has a policy of its own for the weights."""
    if config.trainer.simulation.evaluate_interval == 0:
        return ()
    if config.suite is None:
        return (EvaluationEnv(spec.name, config.env, policy),)
    found = []
    for name, env in config.suite.environments.items():
        own = environment_spec(env)
        same = (own.observation, own.actions) == (spec.observation, spec.actions)
        try:
            player = policy if same else build_policy(config, own).to(policy.active_rows.device)
            copy_weights(policy, player)
        except ValueError as error:
            raise ValueError(
                f"trainer.simulation.suite={config.trainer.simulation.suite}: its environment {name} cannot be played "
                f"by a policy for {spec.name}: {error}"
            ) from error
        found.append(EvaluationEnv(name, env, player))
    return tuple(found)


def _evaluate(
    design: _Design, epoch: int, folder: RunFolder, reporting: RunReporting, stop: StopRequest
) -> EvaluationScores:
    config = design.config
    simulation = config.trainer.simulation
    for env in design.evaluation_envs:
        copy_weights(design.policy, env.policy)
    seed = EVALUATION_SEED if config.suite is None else config.suite.seed
    scores = evaluate(
        design.evaluation_envs,
        category=simulation.suite or design.spec.name,
        num_episodes=simulation.num_episodes,
        seed=seed,
        device=design.device,
        epoch=epoch,
        check=stop.check_finishing,
    )
    interval = config.wandb.video_interval
    if reporting.wandb is not None and interval and epoch % interval == 0:
        shown = design.evaluation_envs[0]
        try:
            film = film_episode(
                Player(shown.policy, design.device, greedy=False, seed=seed),
                shown.config,
                title=f"{config.run}, epoch {epoch}",
                stem=folder.paths.folder / "videos" / f"epoch-{epoch:06d}",
                check=stop.check_finishing,
            )
        except StorageError as error:
            logger.warning("%s; the training goes on without this film", error)
        else:
            reporting.reporters.video_saved(film, f"eval_{scores.category}/video")
    return scores


def _is_best(folder: RunFolder, path: Path) -> bool:
    best = best_checkpoint(list_checkpoints(folder.paths.checkpoints))
    return best is not None and best.path == path


def _header(design: _Design, folder: RunFolder, progress: Progress) -> RunHeader:
    config, device = design.config, design.device
    return RunHeader(
        run=config.run,
        folder=folder.paths.folder,
        agent=config.agent_name,
        environment=design.spec.name,
        device=_device_name(device),
        total_parameters=sum(p.numel() for p in design.policy.parameters() if p.requires_grad),
        total_timesteps=config.trainer.total_timesteps,
        start_epoch=progress.epoch,
        start_agent_step=progress.agent_step,
        config=config.plain(),
        plan=(design.plan.describe(),),
    )


def _status(state: RunState, trainer: Trainer, config: RunConfig, message: str | None = None) -> RunStatus:
    return RunStatus(
        state=state,
        epoch=trainer.progress.epoch,
        agent_step=trainer.progress.agent_step,
        total_timesteps=config.trainer.total_timesteps,
        reward=trainer.standing.reward,
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
    usual = Path(os.environ.get("DATA_DIR") or "train_dir")  # where the other commands look
    return RunOutcome(
        state=state,
        epoch=trainer.progress.epoch,
        agent_step=trainer.progress.agent_step,
        elapsed=trainer.elapsed,
        message=message,
        checkpoint=saved[-1] if saved else None,
        next_commands=next_commands(
            command or ("metta-train",),
            run=config.run,
            total_timesteps=config.trainer.total_timesteps,
            agent_step=trainer.progress.agent_step,
            data_dir=None if config.data_dir.resolve() == usual.resolve() else str(config.data_dir),
            saved=bool(saved),
        ),
    )
