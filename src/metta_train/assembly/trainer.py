"""The trainer of a run: environments, rollout, update, checkpoints and evaluation, joined."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from metta_train.assembly.design import Design, recipe_of
from metta_train.assembly.evaluation import play_evaluation
from metta_train.assembly.starting_point import rollout_start, training_state
from metta_train.assembly.streams import MINIBATCHES, RANK, SAMPLING
from metta_train.envs.build import make_vector_env
from metta_train.reporting.reporter import Reporters
from metta_train.reporting.run_reporting import RunReporting
from metta_train.training.checkpoint_writer import CheckpointWriter
from metta_train.training.checkpoints import Checkpoint
from metta_train.training.learners.build import build_network_pass
from metta_train.training.recent_rewards import RecentRewards
from metta_train.training.recording import record_cuda_graph
from metta_train.training.retention import Retention
from metta_train.training.rollout import build_collector
from metta_train.training.run_folder import RunFolder
from metta_train.training.stopping import StopRequest
from metta_train.training.trainer import Trainer, TrainingPlan
from metta_train.training.training_state import KeptState, Standing, recent_rewards_of, standing_of
from metta_train.training.update import build_updater


def build_trainer(
    design: Design,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    reporting: RunReporting,
    stop: StopRequest,
    stack: ExitStack,
    new_data_seed: int | None = None,
) -> Trainer:
    """Build it, with its environments running.

    Args:
        design: what was decided.
        folder: of the run.
        checkpoint: to go on from; None starts anew.
        reporting: told of every epoch.
        stop: asks the training to end early.
        stack: closes the environments.
        new_data_seed: of other episodes and other random numbers than the run had; None keeps them.
    """
    config, plan, policy = design.config, design.plan, design.policy
    trainer = config.trainer
    record = record_cuda_graph if trainer.cuda_graphs else None
    state = training_state(design, checkpoint, new_data_seed)
    network = stack.enter_context(build_network_pass(policy, recipe_of(design), plan, stop.check_finishing))
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
    collector = build_collector(
        env,
        policy,
        plan,
        state.generators[SAMPLING],
        start=None if checkpoint is None or new_data_seed is not None else rollout_start(design, env, checkpoint),
        check=stop.check,
        record=record,
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
        updater=build_updater(
            policy,
            state.optimizer,
            state.anchors,
            network,
            plan,
            trainer,
            config.chosen_agent.clip_range,
            state.generators[MINIBATCHES],
            check=stop.check_finishing,
            record=record,
        ),
        schedules=design.schedules,
        reporters=Reporters([reporting.reporters, recent]),
        keep=keep,
        save=save,
        evaluate=lambda epoch: play_evaluation(design, epoch, folder, reporting, stop),
        standing=Standing() if checkpoint is None else standing_of(checkpoint),
        stop=stop,
    )
