"""The schemas of `conf/agent/` and `conf/py_agent/`.

They hold what every agent has. Options of one component or of one hand-written agent are validated by its own class
when the policy is built, so that adding an agent takes one file and one YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from metta_train.specs.config_model import ConfigModel

ComponentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class SourceConfig(ConfigModel):
    """An input of a component: the output of another one, or a part of it.

    `slice: [start, end]` takes that part of dimension `dim`, where 1 is the first dimension behind the rows.
    """

    name: str
    """Component whose output is read."""
    slice: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    """[start, end]: a part of it; null = all."""
    dim: Annotated[int, Field(ge=1)] | None = None
    """Dimension that is sliced; 1 = the first one behind the rows."""


class ComponentConfig(ConfigModel):
    """A component: its class, its inputs, and settings that the class itself knows."""

    model_config = ConfigDict(extra="allow", serialize_by_alias=True)

    class_name: str = Field(alias="class")
    """One of the classes below."""
    sources: list[str | SourceConfig] = Field(default_factory=list)
    """Names of the components whose outputs it reads; observations and active_actions are inputs."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The keys that belong to the component's class, not yet validated."""
        return dict(self.__pydantic_extra__ or {})


class AgentConfig(ConfigModel):
    """A graph of components; the outputs of `value` and `action` are the policy's values and logits."""

    clip_range: Annotated[float, Field(ge=0.0)]
    """Weights stay within +-clip_range * max|w at init| * clip_scale; 0 = off."""
    analyze_weights_interval: Annotated[int, Field(ge=0)]
    """Epochs between reports of weights/<metric>/<component>; 0 = never."""
    components: dict[ComponentName, ComponentConfig]


class PyAgentConfig(ConfigModel):
    """A hand-written agent: the file in `policies/py_agents/`, and options that its class itself knows."""

    model_config = ConfigDict(extra="allow")

    agent_type: str
    """The agent: a file in policies/py_agents/, or an entry point `metta_train.agents` of a package."""
    clip_range: Annotated[float, Field(ge=0.0)]
    """Weights stay within +-clip_range * max|w at init|; 0 = off."""
    analyze_weights_interval: Annotated[int, Field(ge=0)]
    """Epochs between reports of weights/<metric>/<layer>; 0 = never."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The keys that belong to the agent's class, not yet validated."""
        return dict(self.__pydantic_extra__ or {})
