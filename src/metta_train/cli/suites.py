"""Suites: named sets of environments in `conf/eval/`, each a list of overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from metta_train.cli.config_source import ConfigSource
from metta_train.specs.config_errors import ConfigError, describe, json_schema, nearest_choice
from metta_train.specs.config_model import ConfigModel

_FOLDER = "eval"
_MAX_BYTES = 1 << 20


class Suite(ConfigModel):
    """A fixed set of environments to evaluate on; the schema of `conf/eval/`."""

    episodes: Annotated[int, Field(gt=0)]
    """Episodes of each environment."""
    seed: Annotated[int, Field(ge=0, lt=2**63, description="a whole number from 0 to 2^63 - 1")]
    """Of maps and sampled actions."""
    environments: Annotated[dict[str, list[str]], Field(min_length=1)]
    """By name, the overrides that make each, as on metta-train's command line: env and its keys alone."""


def load_suite(name: str, source: ConfigSource, key: str = "--suite ") -> Suite:
    """A suite by name, from a folder of the user's own or from `conf/eval/`.

    Args:
        name: of its file.
        source: where it is looked up.
        key: what the user wrote before the name; begins the message of an error.

    Raises:
        ConfigError: there is none, or it is none.
    """
    folders = [folder / _FOLDER for folder in (*(own.folder for own in source.own_folders()), source.folder)]
    known = sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")})
    if name not in known:
        raise ConfigError(f"{key}{name}: needs one of {', '.join(known)}{nearest_choice(name, known)}")
    file = next(f for f in (folder / f"{name}.yaml" for folder in folders) if f.is_file())
    values = _read_yaml(file)
    try:
        suite = Suite.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{file}: {describe(error, values, json_schema(Suite))}") from error
    for overrides in suite.environments.values():
        refuse_other_keys(overrides)
    return suite


def refuse_other_keys(overrides: Sequence[str]) -> None:
    """Only the environment of an evaluation can be chosen. Raises ConfigError."""
    for override in overrides:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] != "env":
            raise ConfigError(
                f"{override}: an evaluation changes the environment alone, with env=NAME or env.KEY=VALUE"
            )


def _read_yaml(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{file}: larger than {_MAX_BYTES} bytes; it is no suite")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: holds no mapping")
    return values
