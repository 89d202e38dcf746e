"""Agents, specs and observations that the policy tests share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from metta_train.policies.build import build_policy_from
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.policies.policy import Policy
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec, Feature, TokenObservation

CONF = Path(__file__).parents[2] / "conf"
FAST_AGENTS = ("agent=fast", "py_agent=fast")
ALL_AGENTS = (*FAST_AGENTS, "agent=mlp")


def agent_values(name: str) -> dict[str, Any]:
    """The mapping that `agent=x` or `py_agent=x` stands for, read from conf/."""
    group, option = name.split("=")
    values = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    return values["py_agent"] if group == "py_agent" else values


def agent_config(name: str) -> AgentConfig | PyAgentConfig:
    model = PyAgentConfig if name.startswith("py_agent=") else AgentConfig
    return model.model_validate(agent_values(name))


def token_spec(
    height: int = 11,
    width: int = 11,
    num_features: int = 25,
    num_tokens: int = 20,
    actions: ActionTable | None = None,
    categories: Mapping[int, int] | None = None,
) -> EnvironmentSpec:
    """`categories` maps feature ids to their number of categories; the others are scalars with normalization id + 1."""
    categories = categories or {}
    features = tuple(Feature(i, f"feature_{i}", float(i + 1), categories.get(i, 0)) for i in range(num_features))
    if actions is None:
        types = ["attack", "get_items", "move", "noop", "put_items", "rotate", "swap"]
        actions = ActionTable.from_pairs(types, [8, 0, 1, 3, 0, 0, 0])
    return EnvironmentSpec("tokens", 4, TokenObservation(num_tokens, height, width, features), actions)


def vector_spec() -> EnvironmentSpec:
    return EnvironmentSpec("cart", 1, BoxObservation((4,), "float32"), ActionTable.discrete(["left", "right"]))


def spec_for(name: str) -> EnvironmentSpec:
    return vector_spec() if name == "agent=mlp" else token_spec()


def build(name: str, spec: EnvironmentSpec | None = None, seed: int = 3) -> Policy:
    return build_policy_from(agent_config(name), spec or spec_for(name), seed)


def random_observations(spec: EnvironmentSpec, rows: int, steps: int, seed: int = 0) -> Tensor:
    """`[B, T, ...]`; tokens lie in the window or are padding."""
    generator = torch.Generator().manual_seed(seed)
    observation = spec.observation
    if isinstance(observation, BoxObservation):
        return torch.randn(rows, steps, *observation.shape, generator=generator)
    shape = (rows, steps, observation.num_tokens)
    row = torch.randint(observation.window_height, shape, generator=generator)
    column = torch.randint(observation.window_width, shape, generator=generator)
    feature = torch.randint(len(observation.features), shape, generator=generator)
    value = torch.randint(256, shape, generator=generator)
    tokens = torch.stack((row << 4 | column, feature, value), dim=-1).to(torch.uint8)
    tokens[torch.rand(shape, generator=generator) < 0.3] = 255
    return tokens


def random_resets(rows: int, steps: int, share: float = 0.2, seed: int = 1) -> Tensor:
    return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed)) < share
