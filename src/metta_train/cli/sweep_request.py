"""What a search is asked for: its space, its settings, and whether they fit what it has begun with."""

from __future__ import annotations

import argparse
import importlib.util
import re
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from metta_train.cli.arguments import data_dir_of
from metta_train.cli.compose import compose, located, quoted, run_config
from metta_train.cli.config_source import ConfigSource, conf_folder
from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.specs.config_errors import ConfigError, describe, json_schema, nearest_choice
from metta_train.sweeps.config import SweepConfig, Value, Values
from metta_train.sweeps.search import SearchFolder
from metta_train.sweeps.trial import Trial
from metta_train.training.config_changes import config_changes

SPACES = "sweep"  # the folder in conf/
# May differ when a search goes on: how long it is and how it is weighed, not what is compared.
CHANGEABLE = ("trials", "optuna", "protein")
_MAX_BYTES = 1 << 20
_PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*")
_NO_TEXTS = ("true", "false", "null", "inf", "nan")  # to Hydra


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    config: SweepConfig
    name: str
    data_dir: Path
    config_dir: Path | None
    jobs: int
    trials: int  # in all; 0 only shows

    @property
    def folder(self) -> SearchFolder:
        return SearchFolder(self.data_dir / self.name)

    def overrides_of(self, trial: Trial) -> list[str]:
        """What the trial says to metta-train, but for its name and place."""
        return [*self.config.overrides, *_as_overrides(trial.values)]


def request_of(options: argparse.Namespace) -> Request:
    """Of the words and options of the command line; what is not given comes from a search that was begun.

    Raises:
        ConfigError: something in them does not fit.
    """
    given = [word for word in options.words if "=" in word]
    spaces = [word for word in options.words if "=" not in word]
    if len(spaces) > 1:
        raise ConfigError(f"{' '.join(spaces)}: one space at a time")
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: needs 1 or more")
    if options.trials is not None and options.trials < 0:
        raise ConfigError(f"--trials {options.trials}: needs 0 or more")
    config_dir = None if options.config_dir is None else options.config_dir.expanduser().resolve()
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {options.config_dir}: no such folder")
    names = [word.partition("=")[2] for word in given if word.startswith("run=")]
    folders = [word.partition("=")[2] for word in given if word.startswith("data_dir=")]
    overrides = [word for word in given if not word.startswith(("run=", "data_dir="))]
    for override in overrides:
        if override.lstrip("+~").startswith(("hydra.", "hydra/")) or override.startswith("restart="):
            raise ConfigError(f"{override}: has no place in a search; its trials are processes of their own")
        if override.lstrip("+~").startswith("objective."):
            raise ConfigError(f"{override}: has no place in a search; its space names metric and goal")
    data_dir = (Path(folders[-1]) if folders else data_dir_of(options)).expanduser().resolve()
    name = names[-1] if names else f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = located(data_dir, name)
    located(data_dir, f"{name}/trial-0000")  # of which there is room for fewer parts
    saved = _saved(SearchFolder(folder))
    if spaces:
        values = _space(spaces[0], ConfigSource(conf_folder(), extra_folder=config_dir))
    elif saved is not None:
        values = dict(saved)
    else:
        known = ", ".join(_known_spaces(ConfigSource(conf_folder(), extra_folder=config_dir)))
        raise ConfigError(f"which space? metta-sweep SPACE run=NAME; there are {known}, or a file of your own")
    for key, value in (("method", options.method), ("seed", options.seed)):
        if value is not None:
            values[key] = value
    if spaces or overrides:
        values["overrides"] = [*(_overrides_in(values) if spaces else ()), *overrides]
    config = _validated(values, spaces[0] if spaces else str(SearchFolder(folder).settings))
    for override in config.overrides:
        if override.lstrip("+").partition("=")[0] in config.parameters:
            raise ConfigError(f"{override}: the space searches this key, so every trial has its own value")
    trials = config.trials if options.trials is None else options.trials
    return Request(config, name, data_dir, config_dir, options.jobs, trials)


def look_interval(request: Request) -> int:
    """Compose what the trials will be; how many agent steps lie between two looks at one.

    Raises:
        ConfigError: no combination of the space's values composes.
    """
    if request.config.method == "optuna" and importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "method optuna: the package is missing; pip install 'metta-train[search]', or --method protein"
        )
    source = ConfigSource(conf_folder(), extra_folder=request.config_dir)
    problems: list[ConfigError] = []
    combinations = request.config.samples()
    for values in combinations:
        try:
            run_config(compose([*request.config.overrides, *_as_overrides(values), f"run={request.name}"], source))
        except ConfigError as error:
            problems.append(error)
    if len(problems) == len(combinations):
        raise problems[0]
    if problems:
        print(f"not every combination of the space will train: {problems[0]}", file=sys.stderr)
    overrides = [*request.config.overrides, *_as_overrides(request.config.centers), f"run={request.name}"]
    total = run_config(compose(overrides, source)).trainer.total_timesteps
    return max(1, total // request.config.optuna.looks)


def adopt_settings(request: Request) -> None:
    """Write the settings of a new search; those of one that goes on may not differ in what is compared.

    Raises:
        ConfigError: they do, or the folder holds trials of nobody's search.
        StorageError: they cannot be written.
    """
    new = request.config.model_dump(mode="json")
    saved = _saved(request.folder)
    if saved is not None:
        old = _validated(saved, str(request.folder.settings)).model_dump(mode="json")
        changes = [c for c in config_changes(old, new) if c.key.partition(".")[0] not in CHANGEABLE]
        if changes:
            listed = "; ".join(map(str, changes))
            raise ConfigError(
                f"run={request.name}: this search was begun with other settings ({listed}); "
                "give the old ones or none to go on, or another run name"
            )
    elif any(request.folder.path.glob("trial-*")):
        raise ConfigError(f"run={request.name}: the folder holds trials without {request.folder.settings.name}")
    with storage_errors("write", request.folder.settings):
        replace_file(request.folder.settings, yaml.safe_dump(new, sort_keys=False, allow_unicode=True).encode())


def _overrides_in(values: dict[str, Any]) -> list[Any]:
    given = values.get("overrides", [])
    return given if isinstance(given, list) else [given]


def _known_spaces(source: ConfigSource) -> list[str]:
    return sorted({file.stem for folder in _space_folders(source) if folder.is_dir() for file in folder.glob("*.yaml")})


def _space_folders(source: ConfigSource) -> list[Path]:
    return [folder / SPACES for folder in (*(own.folder for own in source.own_folders()), source.folder)]


def _space(name: str, source: ConfigSource) -> dict[str, Any]:
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name).expanduser(), name)
    for folder in _space_folders(source):
        if (folder / f"{name}.yaml").is_file() and "/" not in name:
            return _read(folder / f"{name}.yaml", name)
    known = _known_spaces(source)
    raise ConfigError(f"{name}: needs one of {', '.join(known)}, or a .yaml file{nearest_choice(name, known)}")


def _read(file: Path, name: str) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"{name}: no such file")
    if file.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{name}: larger than {_MAX_BYTES} bytes; it is no space")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: holds no mapping")
    return values


def _validated(values: dict[str, Any], name: str) -> SweepConfig:
    try:
        return SweepConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {describe(error, values, json_schema(SweepConfig))}") from error


def _saved(folder: SearchFolder) -> dict[str, Any] | None:
    if not folder.settings.is_file():
        return None
    return _read(folder.settings, str(folder.settings))


def _as_overrides(values: Values) -> list[str]:
    return [f"{key}={_written(value)}" for key, value in values.items()]


def _written(value: Value) -> str:
    """A value on a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if _PLAIN_TEXT.fullmatch(value) and value.lower() not in _NO_TEXTS else quoted(value)
    return f"{value}"
