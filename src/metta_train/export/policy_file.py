"""A trained policy in one safetensors file: weights under their canonical names, and what they belong to as JSON.

The document is the text behind the key `metta_train` of the file's metadata. Reading a file runs nothing in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as render_safetensors
from torch import Tensor

from metta_train.export.network_source import CONSTANTS
from metta_train.policies.build import build_policy_from
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.policies.policy import Policy
from metta_train.reporting.storage import storage_errors
from metta_train.specs.action_table import ActionTable
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec, Feature, TokenObservation

KEY = "metta_train"

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class FeatureEntry(ConfigModel):
    """One token feature.

    Attributes:
        values: names of its values, where they are indices of something with names (tags, actions); empty elsewhere.
    """

    id: Count
    name: str
    normalization: float
    categories: Count
    values: tuple[str, ...] = ()


class TokensEntry(ConfigModel):
    """Token observations, as `TokenObservation`."""

    kind: Literal["tokens"] = "tokens"
    num_tokens: Positive
    window_height: Positive
    window_width: Positive
    features: tuple[FeatureEntry, ...]


class BoxEntry(ConfigModel):
    """Dense observations, as `BoxObservation`."""

    kind: Literal["box"] = "box"
    shape: tuple[Positive, ...]
    dtype: str


class EnvironmentEntry(ConfigModel):
    """The environment that the policy was trained on; action k is logit k."""

    name: str
    num_agents: Positive
    observation: Annotated[TokensEntry | BoxEntry, Field(discriminator="kind")]
    actions: tuple[str, ...]
    max_arguments: tuple[Count, ...] | None


class PolicyDocument(ConfigModel):
    """What the weights belong to.

    Attributes:
        run: its name.
        agent: the choice on the command line, e.g. "agent=fast".
        config: the run's configuration without places and accounts, as its config.yaml.
        action_names: names that own rows of the action table, in the order of those rows.
        state_shapes: per row, of each tensor of the recurrent state.
        versions: of the packages that made the file.
    """

    format_version: Literal[1] = 1
    run: str
    agent: str
    epoch: Count
    agent_step: Count
    config: dict[str, JsonValue]
    environment: EnvironmentEntry
    action_names: tuple[str, ...]
    state_shapes: tuple[tuple[Count, ...], ...]
    versions: dict[str, str]

    @property
    def spec(self) -> EnvironmentSpec:
        """The environment as policies are built for it."""
        entry = self.environment
        if isinstance(entry.observation, BoxEntry):
            observation = BoxObservation(entry.observation.shape, entry.observation.dtype)
        else:
            tokens = entry.observation
            features = tuple(Feature(f.id, f.name, f.normalization, f.categories) for f in tokens.features)
            observation = TokenObservation(tokens.num_tokens, tokens.window_height, tokens.window_width, features)
        return EnvironmentSpec(
            entry.name, entry.num_agents, observation, ActionTable(entry.actions, entry.max_arguments)
        )

    @property
    def agent_config(self) -> AgentConfig | PyAgentConfig:
        """Raises ValueError when the configuration names no agent that this version knows."""
        if "py_agent" in self.config:
            return PyAgentConfig.model_validate(self.config["py_agent"])
        return AgentConfig.model_validate(self.config.get("agent"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a policy comes from; the fields are those of `PolicyDocument`."""

    run: str
    agent: str
    epoch: int
    agent_step: int
    config: Mapping[str, JsonValue]


def document_of(policy: Policy, origin: Origin, value_names: Mapping[str, tuple[str, ...]]) -> PolicyDocument:
    """Describe a policy.

    Args:
        policy: trained.
        origin: where it comes from.
        value_names: names of a feature's values, by feature, where they have some.
    """
    spec = policy.spec
    if isinstance(spec.observation, TokenObservation):
        observation: TokensEntry | BoxEntry = TokensEntry(
            num_tokens=spec.observation.num_tokens,
            window_height=spec.observation.window_height,
            window_width=spec.observation.window_width,
            features=tuple(
                FeatureEntry(
                    id=feature.id,
                    name=feature.name,
                    normalization=feature.normalization,
                    categories=feature.categories,
                    values=value_names.get(feature.name, ()),
                )
                for feature in spec.observation.features
            ),
        )
    else:
        observation = BoxEntry(shape=spec.observation.shape, dtype=spec.observation.dtype)
    return PolicyDocument(
        run=origin.run,
        agent=origin.agent,
        epoch=origin.epoch,
        agent_step=origin.agent_step,
        config=dict(origin.config),
        environment=EnvironmentEntry(
            name=spec.name,
            num_agents=spec.num_agents,
            observation=observation,
            actions=spec.actions.names,
            max_arguments=spec.actions.max_arguments,
        ),
        action_names=policy.action_names,
        state_shapes=policy.state_shapes,
        versions={name: version(name) for name in ("metta-train", "torch", "safetensors")},
    )


def render_policy(tensors: Mapping[str, Tensor], document: PolicyDocument) -> bytes:
    """The file; equal policies give equal bytes."""
    own = {  # copies: safetensors refuses tensors that share memory
        name: tensors[name].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name in sorted(tensors)
    }
    return render_safetensors(own, {KEY: document.model_dump_json()})  # several keys would come in any order


def read_document(path: Path) -> PolicyDocument:
    """What a file says of itself.

    Raises:
        ConfigError: it is no such file, or one of a format that this version does not know.
        StorageError: it cannot be read.
    """
    return _read(path)[0]


def read_policy(path: Path, spec: EnvironmentSpec | None = None) -> Policy:
    """The policy of a file, on the CPU, ready to act or to be trained further.

    Args:
        path: of the file.
        spec: another environment of its kind, whose actions and features may come in another order; None takes the one
            that the policy was trained on.

    Raises:
        ConfigError: it is no such file, or does not fit the environment.
        StorageError: it cannot be read.
    """
    document, tensors = _read(path)
    try:
        spec = document.spec if spec is None else spec
        policy = build_policy_from(document.agent_config, spec, 0, document.action_names)
        policy.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:  # load_state_dict raises RuntimeError
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return policy


def _read(path: Path) -> tuple[PolicyDocument, dict[str, Tensor]]:
    with storage_errors("read", path):
        path.stat()
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                text = (file.metadata() or {}).get(KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(CONSTANTS)}  # noqa: SIM118
        except SafetensorError as error:
            raise ConfigError(f"{path}: not a safetensors file ({error})") from error
    if text is None:
        raise ConfigError(f"{path}: holds tensors alone; metta-export --to safetensors writes what they belong to")
    try:
        return PolicyDocument.model_validate_json(text), tensors
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(
            f"{path}: its description is not one that this version reads: {place}: {problem['msg']}"
        ) from error
