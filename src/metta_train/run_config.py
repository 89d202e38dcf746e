"""RunConfig: everything that decides a run, typed, checked and frozen, before anything heavy is imported."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from metta_train.envs.config import EnvConfig
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.reporting.config import WandbConfig
from metta_train.specs.config_errors import ConfigError, describe, is_open, json_schema, key_path, shown, unknown_key
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.config_origin import SHIPPED, ConfigOrigin
from metta_train.sweeps.config import ObjectiveConfig
from metta_train.training.config import TrainerConfig
from metta_train.training.run_paths import validate_run_name
from metta_train.training.schedules import Schedules

# Floats hold every whole number up to here, so 1e6 on a command line can only mean 1000000.
LARGEST_EXACT = 2**53

# Fields of RunConfig that nobody writes into a configuration.
NO_KEYS = frozenset({"agent_name", "origin", "suite"})


def _name(value: object) -> object:
    """`run=7` is a name, although the command line reads a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value else value


class EvaluationSuite(ConfigModel):
    """What `trainer.simulation.suite` names, composed."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]  # of maps and sampling
    environments: dict[str, EnvConfig]


class RunConfig(ConfigModel):
    """One run. Rooms receive their own part of it, never the whole."""

    run: Annotated[str, BeforeValidator(_name)]
    """Name of the run and of its folder in data_dir; the same name continues it; null = made from agent, env and time.
    """
    restart: Literal["resume", "new", "overwrite"]
    """What a name does that is taken: resume goes on, new takes <run>-2, -3, ..., overwrite deletes what is there."""
    data_dir: Annotated[Path, BeforeValidator(_path), Field(description="the path of a folder")]
    """Where runs live; $DATA_DIR, else ./train_dir."""
    seed: Annotated[int, Field(ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")]
    """Everything random follows from it: maps, initial weights, actions, minibatches."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:<number>")]
    """Where the network computes; auto = cuda where there is one."""
    torch_deterministic: bool
    """Only deterministic operations: the same config gives the same bits."""
    agent: AgentConfig | None = None  # this one or py_agent
    py_agent: PyAgentConfig | None = None
    env: EnvConfig
    trainer: TrainerConfig
    wandb: WandbConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    tensorboard: bool
    """Event files for TensorBoard in <run>/tensorboard; needs the extra tensorboard."""
    suite: EvaluationSuite | None = None  # composed; nobody writes it into a configuration
    # No keys of the configuration:
    agent_name: Annotated[str, Field(exclude=True)]  # the choice, e.g. "agent=fast"
    origin: Annotated[ConfigOrigin, Field(exclude=True)] = SHIPPED

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any] | DictConfig, agent_name: str, origin: ConfigOrigin = SHIPPED) -> Self:
        """Validate a composed tree.

        Args:
            tree: the keys of `conf/train.yaml`; interpolations are resolved here.
            agent_name: what was chosen, for people.
            origin: files of the user's own, to be recorded.

        Raises:
            ConfigError: one line: key, got, needed, nearest key.
        """
        values = plain_values(tree) if isinstance(tree, DictConfig) else dict(tree)
        schema = _command_line_schema()
        for name in NO_KEYS & set(values):
            raise ConfigError(f"{name}={shown(values[name])}: {unknown_key(name, schema['properties'])}")
        try:
            return cls._validated({**values, "agent_name": agent_name, "origin": origin})
        except ValidationError as error:
            raise ConfigError(describe(error, values, schema)) from error

    @classmethod
    def _validated(cls, values: dict[str, Any]) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            whole = [e for e in error.errors() if e["type"] == "int_type" and _is_whole(e["input"])]
            if not whole:
                raise
            values = copy.deepcopy(values)
            for problem in whole:
                _make_whole(values, key_path(problem, values))
            return cls.model_validate(values)

    @property
    def chosen_agent(self) -> AgentConfig | PyAgentConfig:
        """Whichever of `agent` and `py_agent` this run trains."""
        chosen = self.agent if self.py_agent is None else self.py_agent
        assert chosen is not None, "the validator lets exactly one through"
        return chosen

    def plain(self) -> dict[str, Any]:
        """Plain values under the keys of the command line; `from_tree` takes them back."""
        values = self.model_dump(mode="json", by_alias=True)
        return {key: value for key, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        validate_run_name(self.run)
        if (self.agent is None) == (self.py_agent is None):
            both = "both are chosen" if self.agent is not None else "none is chosen"
            raise ValueError(f"agent, py_agent: {both}; choose one: agent=fast or py_agent=fast")
        _check_sizes(self.trainer)
        _check_intervals(self.trainer)
        _check_films(self.trainer.simulation.evaluate_interval, self.wandb)
        _check_schedules(self.trainer)
        return self


def _command_line_schema() -> dict[str, Any]:
    schema = dict(json_schema(RunConfig))
    schema["properties"] = {key: node for key, node in schema["properties"].items() if key not in NO_KEYS}
    return schema


def takes_new_keys(key: str, tree: Mapping[str, Any]) -> bool:
    """True for a key inside a mapping whose keys are the user's own, like `env.features` or a component's settings."""
    schema = _command_line_schema()
    parts = key.split(".")
    return any(is_open(schema, tuple(parts[:end]), tree) for end in range(1, len(parts)))


def plain_values(tree: DictConfig) -> dict[str, Any]:
    """A composed tree as plain values, interpolations resolved. Raises ConfigError when one leads nowhere."""
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = error.full_key or "config"
        raise ConfigError(f"{key}: {str(error.msg or error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT


def _make_whole(values: Any, path: Sequence[str | int]) -> None:  # noqa: ANN401  # plain data of any shape
    *parents, last = path
    for part in parents:
        values = values[part]
    values[last] = int(values[last])


def _check_sizes(trainer: TrainerConfig) -> None:
    """What can be said without an environment; `training/batching.py` decides the rest."""
    horizon, batch, minibatch = trainer.bptt_horizon, trainer.batch_size, trainer.minibatch_size
    for key, size in (("batch_size", batch), ("minibatch_size", minibatch)):
        if isinstance(size, int) and size % horizon:
            raise ValueError(
                f"trainer.{key}={size}: needs whole segments of trainer.bptt_horizon={horizon} steps; "
                f"use {_multiples_around(size, horizon)}, or trainer.{key}=auto"
            )
    if batch != "auto" and minibatch != "auto":
        if minibatch > batch:
            raise ValueError(
                f"trainer.minibatch_size={minibatch}: needs at most trainer.batch_size={batch}; "
                "use that, a part of it, or trainer.minibatch_size=auto"
            )
        if batch % minibatch:
            raise ValueError(
                f"trainer.batch_size={batch}: needs a multiple of trainer.minibatch_size={minibatch}; "
                f"use {_multiples_around(batch, minibatch)}, or trainer.minibatch_size=auto"
            )
    if trainer.num_envs != "auto" and trainer.num_workers != "auto" and trainer.async_factor != "auto":
        group = max(1, trainer.num_workers) * trainer.async_factor
        if trainer.num_envs % group:
            raise ValueError(
                f"trainer.num_envs={trainer.num_envs}: needs a multiple of {group}, so that each of "
                f"trainer.num_workers={trainer.num_workers} steps as many envs in each of "
                f"trainer.async_factor={trainer.async_factor} slices; "
                f"use {_multiples_around(trainer.num_envs, group)}, or trainer.num_envs=auto"
            )


def _check_intervals(trainer: TrainerConfig) -> None:
    saved = trainer.checkpoint.checkpoint_interval
    for key, interval, why in (
        (
            "checkpoint.wandb_checkpoint_interval",
            trainer.checkpoint.wandb_checkpoint_interval,
            "only saved checkpoints are uploaded",
        ),
        (
            "simulation.evaluate_interval",
            trainer.simulation.evaluate_interval,
            "the weights that are evaluated are saved",
        ),
    ):
        if interval % saved:
            raise ValueError(
                f"trainer.{key}={interval}: needs 0 (never) or a multiple of "
                f"trainer.checkpoint.checkpoint_interval={saved}, because {why}; "
                f"use {_multiples_around(interval, saved)}"
            )


def _check_films(evaluate_interval: int, wandb: WandbConfig) -> None:
    interval = wandb.video_interval
    if interval == 0:
        return
    if evaluate_interval == 0:
        raise ValueError(
            f"wandb.video_interval={interval}: films show evaluations, and trainer.simulation.evaluate_interval=0 "
            "means there is none; set that too"
        )
    if interval % evaluate_interval:
        raise ValueError(
            f"wandb.video_interval={interval}: needs 0 (never) or a multiple of trainer.simulation.evaluate_interval="
            f"{evaluate_interval}, because films show evaluations; use {_multiples_around(interval, evaluate_interval)}"
        )


def _check_schedules(trainer: TrainerConfig) -> None:
    """Building them checks them; it needs no torch."""
    Schedules(trainer.hyperparameter_scheduler, trainer.optimizer, trainer.ppo)


def _multiples_around(size: int, unit: int) -> str:
    lower = size // unit * unit
    return f"{lower} or {lower + unit}" if lower else f"{unit}"
