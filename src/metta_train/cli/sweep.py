"""What `-m` will run: checked, and given a name and a folder, before Hydra writes anything."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from metta_train.cli.compose import ConfigSource, compose, located, quoted, resolved
from metta_train.cli.hydra_errors import malformed
from metta_train.specs.config_errors import ConfigError

RESERVED = ("hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir", "hydra.output_subdir", "hydra.mode")


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep's jobs are the runs `<name>/<number>`, or, when `run` itself has several values, one run for each."""

    name: str  # also the wandb group
    data_dir: Path
    overrides: tuple[str, ...]  # for Hydra, after the user's


def plan_sweep(overrides: Sequence[str], source: ConfigSource) -> Sweep:
    """Check that every swept value composes, and decide where the jobs go.

    Raises:
        ConfigError: one line.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in RESERVED:
            raise ConfigError(
                f"{override}: the jobs of a sweep live in <data_dir>/<run>/<number>; set data_dir and run"
            )
        if key == "data_dir" and _parsed([override])[0].is_sweep_override():
            raise ConfigError(f"{override}: all runs of a sweep share one data_dir")
    jobs = sample_jobs(overrides)
    first, *others = [resolved(compose(job, source)) for job in jobs]
    data_dir = Path(first["data_dir"]).expanduser().resolve()
    names = [first["run"], *(job["run"] for job in others)]
    for name in names:
        if name is not None:
            located(data_dir, str(name))
    swept_names = any(o.key_or_group == "run" and o.is_sweep_override() for o in _parsed(overrides))
    if swept_names or first["run"] is None:
        name = f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    else:
        name = str(first["run"])
    folder = f"hydra.sweep.dir={quoted(str(data_dir / name))}"
    if swept_names:
        return Sweep(name, data_dir, (folder, "hydra.sweep.subdir=../${run}"))
    return Sweep(name, data_dir, (folder, f"run={quoted(name)}"))


def sample_jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Some jobs of the sweep, so few that every value of every key is in one of them; the first job comes first."""
    columns = [
        [f"{o.get_key_element()}={value}" for value in _values(o)] if o.is_sweep_override() else [str(o.input_line)]
        for o in _parsed(overrides)
    ]
    length = max((len(column) for column in columns), default=1)
    return [[column[number % len(column)] for column in columns] for number in range(length)]


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(malformed(error.override)) from error


def _values(override: Override) -> list[str]:
    try:
        return list(override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError(f"{override.input_line}: {str(error).splitlines()[0]}") from error
