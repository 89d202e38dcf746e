"""The schema of `conf/env/`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from metta_train.specs.config_model import ConfigModel
from metta_train.specs.entry_points import ENVS, offered_names

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0.0)]


class FeatureOverride(ConfigModel):
    """What the policy is told about one token feature; null leaves what stands there."""

    normalization: Annotated[float, Field(gt=0.0)] | None = None
    """A scalar feature's value is divided by this."""
    categories: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] | None = None
    """Channels of a categorical feature; 0 = scalar, auto = as many as the game has values."""
    omit: bool | None = None
    """true: not shown to the policy, its tokens are ignored."""


FeatureOverrides = dict[str, FeatureOverride]  # by feature name or pattern ("inv:*"); a later entry wins


class ForageTask(ConfigModel):
    """Rooms in which a mine gives ore, an altar turns one ore into one heart, and a heart is the reward."""

    name: Literal["forage"]
    """Which task this is."""
    max_steps: Positive
    """Steps of an episode."""
    rooms: Positive
    """Rooms side by side; each is a world of its own."""
    agents_per_room: Positive
    """Agents in each room."""
    room_size: Positive
    """Cells along a side, inside the walls."""
    mines: Positive
    """Mines per room; one gives ore to whoever moves onto it."""
    altars: Positive
    """Altars per room; one turns an ore into a heart."""
    ore_limit: Annotated[int, Field(gt=0, le=255)]
    """Ore that an agent can carry."""
    heart_reward: float
    """Reward for each heart."""
    ore_reward: float
    """Reward for the first ore in the inventory; taken back when it is spent."""
    window: Annotated[int, Field(ge=3, le=15)]
    """Cells along a side of what an agent sees; odd."""
    num_tokens: Positive
    """Tokens of an observation; further ones are lost."""
    features: FeatureOverrides
    """What the policy is told about token features, by name or pattern; a later entry wins."""


class ConverterConfig(ConfigModel):
    """An object that turns its input into one product after `cooldown` ticks, and holds `max_output` products."""

    count: Count
    """How many per room."""
    cooldown: Count
    """Ticks between input and product."""
    max_output: Annotated[int, Field(gt=0, le=255)]
    """Products that it holds at most."""
    input_amount: Count
    """Units of input that one product takes."""


class ArenaTask(ConfigModel):
    """The original's arena/basic_easy_shaped (reference 16), rebuilt from MettaGrid handlers."""

    name: Literal["arena"]
    """Which task this is."""
    max_steps: Positive
    """Steps of an episode."""
    rooms: Positive
    """Rooms side by side."""
    agents_per_room: Positive
    """Agents in each room."""
    room_size: Positive
    """Cells along a side of a room."""
    border: Count
    """Cells of wall around the map."""
    walls: Count
    """Random walls per room."""
    blocks: Count
    """Random blocks per room; walls, too."""
    mine: ConverterConfig
    generator: ConverterConfig
    altar: ConverterConfig
    default_limit: Annotated[int, Field(gt=0, le=255)]
    """Units of a resource that an agent can carry."""
    heart_limit: Annotated[int, Field(gt=0, le=255)]
    """Hearts that an agent can carry."""
    rewards: dict[str, float]
    """By resource, for the first unit held; hearts have no such limit."""
    heart_reward: float
    """Reward for each heart."""
    window: Annotated[int, Field(ge=3, le=15)]
    """Cells along a side of what an agent sees; odd."""
    num_tokens: Positive
    """Tokens of an observation; further ones are lost."""
    features: FeatureOverrides
    """What the policy is told about token features, by name or pattern; a later entry wins."""


class MettaGridEnvConfig(ConfigModel):
    """A MettaGrid game: one of our tasks, or any MettaGrid config from a file."""

    type: Literal["mettagrid"]
    """Which kind of environment this is; the other keys depend on it."""
    config: str | None
    """Path of a MettaGrid config, YAML or JSON; takes the place of task."""
    task: Annotated[ForageTask | ArenaTask, Field(discriminator="name")] | None
    max_steps: Positive | None
    """Steps of an episode; null = what the task or file says."""
    time_limit: Literal["truncation", "termination"]
    """What max_steps is: a truncation (the future still counts) or a termination."""
    desync_episodes: bool
    """The first episode of each env ends at a random step, so that resets are spread over time."""
    features: FeatureOverrides
    """As in a task, on top of the task's own."""
    start_timeout: Seconds
    """Seconds in which a worker process must be ready."""
    step_timeout: Seconds
    """Seconds in which it must answer a step or reset."""
    restart_budget: Count
    """Workers that may fail and be started again; 0 = save and stop (exit code 6)."""

    @model_validator(mode="after")
    def _has_a_game(self) -> Self:
        if self.config is None and self.task is None:
            raise ValueError(
                "config: got null, needs the path of a MettaGrid YAML or JSON file (env.config=game.yaml), "
                "or choose a task (env=forage, env=arena)"
            )
        if self.config == "":
            raise ValueError("config: got an empty text, needs the path of a MettaGrid YAML or JSON file")
        return self


class GymnasiumEnvConfig(ConfigModel):
    """A single-agent Gymnasium environment with Box observations and Discrete actions."""

    type: Literal["gymnasium"]
    """Which kind of environment this is; the other keys depend on it."""
    id: str
    """As in `gymnasium.make`; "package.module:Name-v0" imports the package first."""
    kwargs: dict[str, JsonValue]
    """Further arguments of `gymnasium.make`."""
    max_steps: Positive | None
    """Time limit, a truncation; null = the environment's own."""
    desync_episodes: bool
    """The first episode of each env ends at a random step, so that resets are spread over time."""
    start_timeout: Seconds
    """Seconds in which a worker process must be ready."""
    step_timeout: Seconds
    """Seconds in which it must answer a step or reset."""
    restart_budget: Count
    """Workers that may fail and be started again; 0 = save and stop (exit code 6)."""


class PettingZooEnvConfig(ConfigModel):
    """A PettingZoo parallel environment: agents of one kind and number, Box observations, Discrete actions."""

    type: Literal["pettingzoo"]
    """Which kind of environment this is; the other keys depend on it."""
    id: str | None
    """sisl/pursuit_v5 of PettingZoo itself, mpe2.simple_spread_v3 of another package, or package.module:function."""
    kwargs: dict[str, JsonValue]
    """Further arguments of its parallel_env."""
    max_steps: Positive | None
    """Time limit, a truncation; null = the environment's own."""
    desync_episodes: bool
    """With max_steps: the first episode of each env ends at a random step, so that resets are spread over time."""
    start_timeout: Seconds
    """Seconds in which a worker process must be ready."""
    step_timeout: Seconds
    """Seconds in which it must answer a step or reset."""
    restart_budget: Count
    """Workers that may fail and be started again; 0 = save and stop (exit code 6)."""

    @model_validator(mode="after")
    def _has_an_id(self) -> Self:
        if not self.id:
            raise ValueError("id: needs a PettingZoo environment, e.g. env.id=sisl/pursuit_v5")
        return self


class PluginEnvConfig(ConfigModel):
    """An environment that an installed package offers as an entry point `metta_train.envs`."""

    type: Literal["plugin"]
    """Which kind of environment this is; the other keys depend on it."""
    name: str | None
    """Name of the entry point."""
    options: dict[str, JsonValue]
    """The environment's own keys, checked by its own model."""
    desync_episodes: bool
    """The first episode of each env ends at a random step, so that resets are spread over time."""
    start_timeout: Seconds
    """Seconds in which a worker process must be ready."""
    step_timeout: Seconds
    """Seconds in which it must answer a step or reset."""
    restart_budget: Count
    """Workers that may fail and be started again; 0 = save and stop (exit code 6)."""

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        if not self.name:
            offered = ", ".join(offered_names(ENVS)) or "nothing yet: see docs/own-env.md"
            raise ValueError(f"name: needs what an installed package offers as an entry point {ENVS} ({offered})")
        return self


EnvConfig = Annotated[
    MettaGridEnvConfig | GymnasiumEnvConfig | PettingZooEnvConfig | PluginEnvConfig, Field(discriminator="type")
]
