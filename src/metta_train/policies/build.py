"""From a configuration to an initialised policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metta_train.policies.component_graph.graph import ComponentGraph
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.policies.policy import Policy
from metta_train.policies.py_agents.registry import build_py_agent
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.random_streams import derived_seed


def build_policy_from(
    agent: AgentConfig | PyAgentConfig, spec: EnvironmentSpec, seed: int, action_names: Sequence[str] = ()
) -> Policy:
    """Build a policy on the CPU and fill its weights; torch's own random state is left as it is.

    Args:
        agent: what to build.
        spec: the environment to build it for.
        seed: the run's seed; a parameter's initial values depend on it and on the parameter's name.
        action_names: names that own embedding rows already, in the order of a checkpoint.

    Raises:
        ValueError: the configuration does not describe a policy, or not one that fits the environment.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "init"))
        if isinstance(agent, AgentConfig):
            policy: Policy = ComponentGraph(spec, agent, action_names)
        else:
            policy = build_py_agent(spec, agent)
            policy.restore_action_names(action_names)
    _check_float32(policy)
    policy.initialize(seed)
    return policy.train()


def _check_float32(policy: Policy) -> None:
    """Learners and the norm of the gradients see all parameters as one tensor."""
    for name, parameter in policy.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"parameter {name} is {str(parameter.dtype).removeprefix('torch.')}: parameters must be float32; "
                f"trainer.precision=bf16 casts them where they are used"
            )
