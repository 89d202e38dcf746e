"""What `-m` will run: checked, and given a name and a folder, before Hydra writes anything."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from pydantic import ValidationError

from metta_train.cli.compose import Composition, ConfigSource, choice_of, compose, located, quoted, resolved
from metta_train.cli.hydra_errors import malformed
from metta_train.reporting.metric_names import REWARD
from metta_train.specs.config_errors import ConfigError, describe, json_schema
from metta_train.sweeps.config import Goal, ObjectiveConfig
from metta_train.sweeps.job_names import SEED, job_name
from metta_train.sweeps.job_records import JobRecords

RESERVED = ("hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir", "hydra.output_subdir", "hydra.mode")
RUN = "run"
BASIC = "basic"
MAX_LISTED = 10_000  # jobs; a plan for more would take longer than it is worth


@dataclass(frozen=True, slots=True)
class Sweep:
    """The jobs of `-m` and where they go: the runs `<name>/<job name>`, or those that several values of `run` name.

    Travels to the processes of a launcher, so it holds plain values alone.

    Attributes:
        name: of its folder and of the wandb group.
        data_dir: where runs live.
        start: this start of the sweep.
        overrides: for Hydra, after the user's.
        common: keys whose values all jobs share.
        in_process: the jobs run in this process, one after the other.
        planned: names of all runs, in the order of the jobs; None when only the sweeper knows them.
        metric: what the jobs are compared by.
        goal: which end of it is the best.
        warnings: about files of the user's own that were passed over.
    """

    name: str
    data_dir: Path
    start: str
    overrides: tuple[str, ...]
    common: frozenset[str]
    in_process: bool = True
    planned: tuple[str, ...] | None = None
    metric: str = REWARD
    goal: Goal = "maximize"
    warnings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.data_dir / self.name

    @property
    def records(self) -> JobRecords:
        return JobRecords(self.folder)

    def values_of(self, job: Sequence[str]) -> dict[str, str]:
        """What sets a job apart from the others, by key; a number has one spelling, however it was written."""
        return {
            override.key_or_group: _text(override)
            for override in _parsed(job)
            if override.key_or_group not in self.common and override.key_or_group not in (RUN, "data_dir")
        }

    def run_of(self, job: Sequence[str]) -> str:
        """The name of a job's run."""
        values = self.values_of(job)
        if RUN in self.common:
            return f"{self.name}/{job_name(values)}"
        run = next(_text(override) for override in _parsed(job) if override.key_or_group == RUN)
        return f"{run}/{job_name(values)}" if values else run


def plan_sweep(overrides: Sequence[str], source: ConfigSource) -> Sweep:
    """Check that every swept value composes, and decide where the jobs go.

    Raises:
        ConfigError: one line.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in RESERVED:
            raise ConfigError(f"{override}: the jobs of a sweep live in <data_dir>/<run>/<job>; set data_dir and run")
        if key == "data_dir" and _parsed([override])[0].is_sweep_override():
            raise ConfigError(f"{override}: all runs of a sweep share one data_dir")
        if key.startswith("objective.") and _parsed([override])[0].is_sweep_override():
            raise ConfigError(f"{override}: all runs of a sweep are compared by one metric")
    jobs = sample_jobs(overrides)
    compositions = [_composition(job, source) for job in jobs]
    first, *others = [resolved(composition) for composition in compositions]
    if "new" in (first["restart"], *(job["restart"] for job in others)):
        raise ConfigError("restart=new: the jobs of a sweep are named by their values; give the sweep another run=")
    data_dir = Path(first["data_dir"]).expanduser().resolve()
    names = [first["run"], *(job["run"] for job in others)]
    for name in names:
        if name is not None:
            located(data_dir, str(name))
    parsed = [o for o in _parsed(overrides) if not o.key_or_group.startswith(("hydra.", "hydra/"))]
    swept_names = any(o.key_or_group == RUN and o.is_sweep_override() for o in parsed)
    if swept_names or first["run"] is None:
        name = f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    else:
        name = str(first["run"])
    common = {o.key_or_group for o in parsed if not o.is_sweep_override()}
    if swept_names:
        given = []
    else:
        common.add(RUN)
        common.discard(SEED)  # part of the name, so that more seeds may follow
        given = [f"run={quoted(name)}"]
    objective = _objective(first["objective"])
    sweep = Sweep(
        name=name,
        data_dir=data_dir,
        start=secrets.token_hex(4),
        overrides=(f"hydra.sweep.dir={quoted(str(data_dir / name))}", *given),
        common=frozenset(common),
        metric=objective.metric,
        goal=objective.goal,
        in_process=choice_of("hydra/launcher", overrides) in (None, BASIC),
        warnings=tuple(dict.fromkeys(warning for composition in compositions for warning in composition.warnings)),
    )
    for job in jobs:
        located(data_dir, sweep.run_of(_without_hydra(job)))
    return _planned(sweep, overrides)


def _objective(values: dict[str, Any]) -> ObjectiveConfig:
    try:
        return ObjectiveConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"objective.{describe(error, values, json_schema(ObjectiveConfig))}") from error


def _planned(sweep: Sweep, overrides: Sequence[str]) -> Sweep:
    if choice_of("hydra/sweeper", overrides) not in (None, BASIC) or any(
        override.lstrip("+").startswith("hydra.sweeper") for override in overrides
    ):
        return sweep
    columns = _columns(overrides)
    jobs = list(itertools.islice(itertools.product(*columns), MAX_LISTED + 1))
    if len(jobs) > MAX_LISTED:
        return sweep
    runs = [sweep.run_of(_without_hydra(job)) for job in jobs]
    twice = next((run for run, after in itertools.pairwise(sorted(runs)) if run == after), None)
    if twice is not None:
        raise ConfigError(f"two jobs would be the run {twice!r}: a value is given twice")
    return replace(sweep, planned=tuple(runs))


def _composition(job: Sequence[str], source: ConfigSource) -> Composition:
    try:
        return compose(job, source)
    except ConfigError as error:
        if str(error).startswith("hydra/launcher="):
            raise ConfigError(f"{error} (joblib and submitit come with pip install 'metta-train[launch]')") from error
        raise


def _without_hydra(job: Sequence[str]) -> list[str]:
    return [override for override in job if not override.lstrip("+~").startswith(("hydra.", "hydra/"))]


def sample_jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Some jobs of the sweep, so few that every value of every key is in one of them; the first job comes first."""
    columns = _columns(overrides)
    length = max((len(column) for column in columns), default=1)
    return [[column[number % len(column)] for column in columns] for number in range(length)]


def _columns(overrides: Sequence[str]) -> list[list[str]]:
    return [
        [f"{o.get_key_element()}={value}" for value in _values(o)] if o.is_sweep_override() else [str(o.input_line)]
        for o in _parsed(overrides)
    ]


def _text(override: Override) -> str:
    """A value as text: `1e-3` and `0.001` are the same."""
    if override.is_delete():
        return "none"
    holder = OmegaConf.to_container(OmegaConf.create({"value": override.value()}), resolve=False)
    assert isinstance(holder, dict)
    value = holder["value"]
    return value if isinstance(value, str) else json.dumps(value)


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(malformed(error.override)) from error


def _values(override: Override) -> list[str]:
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError(f"{override.input_line}: {str(error).splitlines()[0]}") from error
    if not values:
        raise ConfigError(f"{override.input_line}: holds no value")
    return values
