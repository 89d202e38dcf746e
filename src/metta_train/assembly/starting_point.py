"""What a training starts with, or goes on from: weights, optimizer, random numbers, environments."""

from __future__ import annotations

import logging

import torch

from metta_train.assembly.design import Design
from metta_train.assembly.policy import take_initial_weights
from metta_train.assembly.streams import MINIBATCHES, RANK, SAMPLING, generator_of
from metta_train.envs.vector import ResumableVectorEnv
from metta_train.policies.weights import WeightAnchors
from metta_train.specs.random_streams import derived_seed
from metta_train.training.checkpoints import Checkpoint
from metta_train.training.optimizers import build_optimizer
from metta_train.training.random_states import seed_global_generators
from metta_train.training.rollout import RolloutStart, RowMemory
from metta_train.training.training_state import TrainingState, data_seed_of, envs_of, memory_of

logger = logging.getLogger(__name__)


def training_state(design: Design, checkpoint: Checkpoint | None, new_data_seed: int | None) -> TrainingState:
    """A new state, or the one of the checkpoint.

    Args:
        design: whose policy it holds.
        checkpoint: to go on from; None starts anew.
        new_data_seed: of other episodes and other random numbers than the run had; None keeps them.
    """
    config, policy = design.config, design.policy
    if checkpoint is None:
        take_initial_weights(config, policy)
    data_seed = new_data_seed
    if checkpoint is not None and new_data_seed is None:
        data_seed = data_seed_of(checkpoint)
    streams = config.seed if data_seed is None else data_seed
    seed_global_generators(derived_seed(streams, "rank", RANK, "global"))
    state = TrainingState(
        policy=policy,
        optimizer=build_optimizer(config.trainer.optimizer, policy, design.plan.precision),
        anchors=WeightAnchors.of(policy),
        generators={
            # Actions are drawn where the logits are; minibatches are drawn on the CPU.
            SAMPLING: generator_of(streams, design.device, SAMPLING),
            MINIBATCHES: generator_of(streams, torch.device("cpu"), MINIBATCHES),
        },
        agent=config.agent_name,
        seed=config.seed,
        data_seed=data_seed,
    )
    if checkpoint is not None:
        state.restore(checkpoint, random_streams=new_data_seed is None)
    return state


def rollout_start(design: Design, env: ResumableVectorEnv, checkpoint: Checkpoint) -> RolloutStart | None:
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
