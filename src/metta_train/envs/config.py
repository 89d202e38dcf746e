"""The schema of `conf/env/`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from metta_train.specs.config_model import ConfigModel

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0.0)]


class FeatureOverride(ConfigModel):
    """What the policy is told about one token feature; null leaves what stands there."""

    normalization: Annotated[float, Field(gt=0.0)] | None = None
    categories: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] | None = (
        None  # 0 = scalar; auto = as many as exist
    )
    omit: bool | None = None  # true: not shown to the policy, its tokens are ignored


FeatureOverrides = dict[str, FeatureOverride]  # by feature name or pattern ("inv:*"); a later entry wins


class ForageTask(ConfigModel):
    """Rooms in which a mine gives ore, an altar turns one ore into one heart, and a heart is the reward."""

    name: Literal["forage"]
    max_steps: Positive
    rooms: Positive
    agents_per_room: Positive
    room_size: Positive  # cells, inside the walls
    mines: Positive  # per room
    altars: Positive
    ore_limit: Annotated[int, Field(gt=0, le=255)]  # ore that an agent can carry
    heart_reward: float
    ore_reward: float  # for the first ore in the inventory; taken back when it is spent
    window: Annotated[int, Field(ge=3, le=15)]  # cells; odd
    num_tokens: Positive
    features: FeatureOverrides


class ConverterConfig(ConfigModel):
    """An object that turns its input into one product after `cooldown` ticks, and holds `max_output` products."""

    count: Count  # per room
    cooldown: Count
    max_output: Annotated[int, Field(gt=0, le=255)]
    input_amount: Count  # units of input that one product takes


class ArenaTask(ConfigModel):
    """The original's arena/basic_easy_shaped (reference 16), rebuilt from MettaGrid handlers."""

    name: Literal["arena"]
    max_steps: Positive
    rooms: Positive
    agents_per_room: Positive
    room_size: Positive
    border: Count
    walls: Count  # per room
    blocks: Count
    mine: ConverterConfig
    generator: ConverterConfig
    altar: ConverterConfig
    default_limit: Annotated[int, Field(gt=0, le=255)]
    heart_limit: Annotated[int, Field(gt=0, le=255)]
    rewards: dict[str, float]  # by resource, for the first unit held; hearts have no such limit
    heart_reward: float
    window: Annotated[int, Field(ge=3, le=15)]
    num_tokens: Positive
    features: FeatureOverrides


class MettaGridEnvConfig(ConfigModel):
    """A MettaGrid game: one of our tasks, or any MettaGrid config from a file."""

    type: Literal["mettagrid"]
    config: str | None  # path of a MettaGrid config, YAML or JSON; takes the place of `task`
    task: Annotated[ForageTask | ArenaTask, Field(discriminator="name")] | None
    max_steps: Positive | None  # null: what the task or file says
    time_limit: Literal["truncation", "termination"]
    desync_episodes: bool  # the first episode of each env ends at a random step
    features: FeatureOverrides  # on top of the task's own
    start_timeout: Seconds  # a worker process must be ready within this time
    step_timeout: Seconds  # and must answer a step or reset within this one
    restart_budget: Count  # workers that may fail and be started again in one process's training

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
    id: str  # as in `gymnasium.make`; "package.module:Name-v0" imports the package first
    kwargs: dict[str, JsonValue]
    max_steps: Positive | None  # time limit; null: the environment's own
    desync_episodes: bool
    start_timeout: Seconds
    step_timeout: Seconds
    restart_budget: Count


EnvConfig = Annotated[MettaGridEnvConfig | GymnasiumEnvConfig, Field(discriminator="type")]
