"""The schema of `conf/sweep/`: what `metta-sweep` searches, and how."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from metta_train.reporting.metric_names import REWARD
from metta_train.specs.config_model import ConfigModel

Value = bool | int | float | str
Values = dict[str, Value]  # key of a configuration -> what a trial sets it to

DIGITS = 6  # significant ones: a command line that repeats a trial stays readable

Positive = Annotated[int, Field(gt=0)]
_KEY = re.compile(r"[A-Za-z_][\w./@-]*")


class LogUniform(ConfigModel):
    """A number whose order of magnitude is unknown."""

    type: Literal["loguniform"]
    low: Annotated[float, Field(gt=0.0)]
    high: Annotated[float, Field(gt=0.0)]
    center: float | None = None  # a good guess, tried first; null = the middle

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.center)
        return self

    @property
    def middle(self) -> Value:
        return self.center if self.center is not None else rounded(math.sqrt(self.low * self.high))

    @property
    def samples(self) -> tuple[Value, ...]:
        return self.low, self.high


class Uniform(ConfigModel):
    """A number between two others."""

    type: Literal["uniform"]
    low: float
    high: float
    center: float | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.center)
        return self

    @property
    def middle(self) -> Value:
        return self.center if self.center is not None else rounded((self.low + self.high) / 2)

    @property
    def samples(self) -> tuple[Value, ...]:
        return self.low, self.high


class Int(ConfigModel):
    """A whole number, both ends included."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False  # its order of magnitude is unknown
    center: int | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.center)
        if self.log and self.low < 1:
            raise ValueError(f"low={self.low}: needs 1 or more with log=true")
        return self

    @property
    def middle(self) -> Value:
        if self.center is not None:
            return self.center
        return round(math.sqrt(self.low * self.high)) if self.log else (self.low + self.high) // 2

    @property
    def samples(self) -> tuple[Value, ...]:
        return self.low, self.high


class Choice(ConfigModel):
    """One of several values. Protein takes neighbours in the list for similar; TPE assumes nothing."""

    type: Literal["choice"]
    values: Annotated[tuple[Value, ...], Field(min_length=2, strict=False)]
    center: Value | None = None

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        if len(set(map(repr, self.values))) < len(self.values):
            raise ValueError("values: one of them is there twice")
        if self.center is not None and self.center not in self.values:
            raise ValueError(f"center={self.center}: needs one of {', '.join(map(str, self.values))}")
        return self

    @property
    def middle(self) -> Value:
        return self.center if self.center is not None else self.values[(len(self.values) - 1) // 2]

    @property
    def samples(self) -> tuple[Value, ...]:
        return self.values


Parameter = Annotated[LogUniform | Uniform | Int | Choice, Field(discriminator="type")]


class OptunaConfig(ConfigModel):
    """Tree-structured Parzen estimators, and when a trial is hopeless."""

    startup_trials: Annotated[int, Field(ge=0)] = 8  # drawn at random before the estimators take over
    pruner: Literal["median", "halving", "none"] = "median"  # median: worse than half of the others so far
    pruner_startup_trials: Annotated[int, Field(ge=0)] = 4  # these run to their ends, whatever comes
    looks: Positive = 20  # comparisons over the length of a trial
    warmup_looks: Annotated[int, Field(ge=0)] = 4  # of them without consequences


class ProteinConfig(ConfigModel):
    """PufferLib's search along the front of reward and time."""

    max_seconds: Positive = 3600  # no trial is proposed that is expected to take longer


Goal = Literal["maximize", "minimize"]


class ObjectiveConfig(ConfigModel):
    """What the jobs of `metta-train -m` are compared by and a sweeper of Hydra is told; it changes no training."""

    metric: Annotated[str, Field(min_length=1)] = REWARD
    """Any name in metrics.jsonl; its mean over the last tenth of a job's agent steps."""
    goal: Goal = "maximize"
    """Which end of the table is the best."""


class SweepConfig(ConfigModel):
    """A search."""

    method: Literal["optuna", "protein"] = "optuna"
    metric: Annotated[str, Field(min_length=1)] = REWARD  # its mean over the last tenth of a trial's agent steps
    goal: Goal = "maximize"
    trials: Positive = 20  # in all
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of the search; the trials' seed is an override like any other
    overrides: tuple[str, ...] = Field(default=(), strict=False)  # of every trial, as on metta-train's command line
    optuna: OptunaConfig = OptunaConfig()
    protein: ProteinConfig = ProteinConfig()
    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]  # key -> what it may be

    @model_validator(mode="after")
    def _names_keys(self) -> Self:
        for key in self.parameters:
            if not _KEY.fullmatch(key):
                raise ValueError(f"parameters: {key!r} is no key of a configuration")
            if key in ("run", "data_dir", "restart"):
                raise ValueError(f"parameters: {key} names a trial's folder and is no subject of a search")
        return self

    @property
    def centers(self) -> Values:
        """The best guess for every parameter."""
        return {key: parameter.middle for key, parameter in self.parameters.items()}

    @property
    def has_centers(self) -> bool:
        """Whether somebody made such a guess."""
        return any(parameter.center is not None for parameter in self.parameters.values())

    def samples(self) -> list[Values]:
        """So few combinations that every end and every choice is in one of them."""
        length = max(len(parameter.samples) for parameter in self.parameters.values())
        return [
            {key: p.samples[number % len(p.samples)] for key, p in self.parameters.items()} for number in range(length)
        ]


def rounded(value: float) -> float:
    """To so many digits as are written on a command line."""
    return float(f"{value:.{DIGITS}g}")


def _check_range(low: float, high: float, center: float | None) -> None:
    if low >= high:
        raise ValueError(f"low={low:g}: needs to be below high={high:g}")
    if center is not None and not low <= center <= high:
        raise ValueError(f"center={center:g}: needs to be from {low:g} to {high:g}")
