"""One policy with everything that training needs, and the rollouts that a comparison trains on."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from metta_train.envs.vector import VectorEnv
from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors
from metta_train.specs.random_streams import derived_seed
from metta_train.training.batching import BatchPlan
from metta_train.training.config import PPOConfig, TrainerConfig
from metta_train.training.learners.network_pass import OwnPass
from metta_train.training.optimizers import build_optimizer
from metta_train.training.rollout import RolloutCollector, build_collector
from metta_train.training.training_state import TrainingState
from metta_train.training.update import PolicyUpdater, build_updater

HORIZON = 4
STEPS = 8
ROWS = 48  # about; whole envs
SAMPLING, MINIBATCHES = "sampling", "minibatches"
NO_LIMIT = 1e30  # a gradient norm that is never reached: gradients stay as they are


@dataclass(frozen=True, slots=True)
class Bench:
    """One policy in training."""

    state: TrainingState
    updater: PolicyUpdater


def num_envs_for(num_agents: int) -> int:
    """Envs that give about ROWS rows."""
    return max(2, ROWS // num_agents)


def small_plan(rows: int, *, whole: bool) -> BatchPlan:
    """A rollout of STEPS steps; `whole` makes it a single minibatch."""
    batch = rows * STEPS
    minibatch = batch if whole else batch // 2
    return BatchPlan(
        num_envs=1,
        num_workers=0,
        num_slices=1,
        rows=rows,
        steps=STEPS,
        bptt_horizon=HORIZON,
        batch_size=batch,
        minibatch_size=minibatch,
        max_minibatch_size=minibatch,
        precision="fp32",
        threads=1,
        learners=1,
    )


def set_up(
    policy: Policy, trainer: TrainerConfig, plan: BatchPlan, clip_range: float, seed: int, *, agent: str
) -> Bench:
    """Put `policy` itself, not a copy, into training."""
    device = policy.active_rows.device
    state = TrainingState(
        policy=policy,
        optimizer=build_optimizer(trainer.optimizer, policy),
        anchors=WeightAnchors.of(policy),
        generators={
            SAMPLING: torch.Generator(device).manual_seed(derived_seed(seed, "parity", SAMPLING)),
            MINIBATCHES: torch.Generator().manual_seed(derived_seed(seed, "parity", MINIBATCHES)),
        },
        agent=agent,
        seed=seed,
    )
    generator = state.generators[MINIBATCHES]
    network = OwnPass(policy, plan.precision, plan.piece_segments)
    updater = build_updater(policy, state.optimizer, state.anchors, network, plan, trainer, clip_range, generator)
    return Bench(state, updater)


def collector_of(bench: Bench, env: VectorEnv, plan: BatchPlan) -> RolloutCollector:
    """Collects rollouts of the plan's size with the bench's policy."""
    return build_collector(env, bench.state.policy, plan, bench.state.generators[SAMPLING])


def one_full_step(trainer: TrainerConfig) -> TrainerConfig:
    """The same loss, as one gradient step over everything, without clipping of gradients and early stops."""
    changes: dict[str, object] = {"max_grad_norm": NO_LIMIT, "target_kl": None}
    ppo: PPOConfig = trainer.ppo.model_copy(update=changes)
    replay = trainer.prioritized_experience_replay.model_copy(update={"prio_alpha": 0.0})
    return trainer.model_copy(update={"ppo": ppo, "update_epochs": 1, "prioritized_experience_replay": replay})


def copies(*policies: Policy) -> tuple[Policy, ...]:
    """Independent copies, weights and all."""
    return tuple(copy.deepcopy(policy) for policy in policies)
