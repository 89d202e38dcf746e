"""What is decided and built before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from metta_train.assembly.policy import build_policy
from metta_train.envs.build import environment_spec
from metta_train.playback.evaluation_film import require_pictures
from metta_train.policies.build import build_policy_from
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.policies.policy import Policy
from metta_train.reporting.tensorboard import require_tensorboard
from metta_train.run_config import RunConfig
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.training.batching import BatchPlan, plan_batches
from metta_train.training.evaluation import EvaluationEnv
from metta_train.training.learners.messages import PolicyRecipe
from metta_train.training.learners.network_pass import trained_parameters
from metta_train.training.parity.same_network import check_same_network
from metta_train.training.resources import choose_device, measure_resources
from metta_train.training.schedules import Schedules
from metta_train.training.torch_settings import set_up_torch
from metta_train.training.training_state import copy_weights


@dataclass(frozen=True, slots=True)
class Design:
    """What is decided before anything is written: a user's mistake in it costs nothing."""

    config: RunConfig
    spec: EnvironmentSpec
    device: torch.device
    plan: BatchPlan
    policy: Policy
    schedules: Schedules
    evaluation_envs: tuple[EvaluationEnv, ...]

    @property
    def device_name(self) -> str:
        """For people."""
        device = self.device
        return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def design_of(config: RunConfig) -> Design:
    """Decide it, and set torch up accordingly.

    Raises:
        ValueError: something in the configuration does not fit.
    """
    if config.tensorboard:
        require_tensorboard()
    if config.wandb.video_interval:
        require_pictures(config.env)
    device = choose_device(config.device)
    if config.trainer.cuda_graphs and device.type != "cuda":
        raise ValueError(f"trainer.cuda_graphs=true needs a CUDA device, got {device}: use trainer.cuda_graphs=false")
    spec = environment_spec(config.env)
    resources = measure_resources(device)
    plan_batches(config.trainer, spec, resources)  # a mistake in the sizes is told before the policy takes its time
    set_up_torch(deterministic=config.torch_deterministic)
    policy = build_policy(config, spec).to(device)
    plan = plan_batches(config.trainer, spec, resources, sum(p.numel() for p in trained_parameters(policy)))
    trainer = config.trainer
    return Design(
        config=config,
        spec=spec,
        device=device,
        plan=plan,
        policy=policy,
        schedules=Schedules(trainer.hyperparameter_scheduler, trainer.optimizer, trainer.ppo),
        evaluation_envs=_evaluation_envs(config, spec, policy),
    )


def recipe_of(design: Design) -> PolicyRecipe:
    """Builds a policy like the one that is trained, in another process; call it when that knows its action names."""
    config = design.config
    return partial(build_policy_from, config.chosen_agent, design.spec, config.seed, design.policy.action_names)


def check_kind_of_agent(design: Design, before: Mapping[str, object] | None) -> None:
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
