"""An EnvironmentSpec from a YAML or JSON file, so that policies can be compared without an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from metta_train.policies.settings import validated
from metta_train.specs.action_table import ActionTable
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec, Feature, TokenObservation

MAX_BYTES = 1 << 20
Positive = Annotated[int, Field(gt=0)]


class _FeatureEntry(ConfigModel):
    id: int
    name: str
    normalization: float = 1.0
    categories: int = 0


class _ObservationEntry(ConfigModel):
    """Tokens, or the shape and dtype of a box."""

    num_tokens: int | None = None
    window_height: int | None = None
    window_width: int | None = None
    features: list[_FeatureEntry] | None = None
    shape: list[Positive] | None = None
    dtype: str | None = None


class _PairEntry(ConfigModel):
    """Action types and the largest argument of each."""

    types: list[str]
    max_arguments: list[int]


class _SpecFile(ConfigModel):
    name: str
    num_agents: Positive
    observation: _ObservationEntry
    actions: list[str] | _PairEntry


def read_yaml_mapping(path: Path, what: str) -> dict[str, Any]:
    """A file's mapping of plain values. Raises ValueError in one line for a file that is missing or no mapping."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{what} {path}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{what} {path}: larger than {MAX_BYTES} bytes")
    try:
        values = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{what} {path}: holds {type(values).__name__}, needs a mapping")
    return {str(key): value for key, value in values.items()}


def read_spec(path: Path) -> EnvironmentSpec:
    """Read a spec file.

    Its keys: `name`, `num_agents`, `actions` (a list of names, or `types` and `max_arguments`), and `observation`
    with `num_tokens window_height window_width features: [{id, name, normalization, categories}]`, or with
    `shape dtype`.

    Raises:
        ValueError: one line that names the file and what is wrong in it.
    """
    file = validated(_SpecFile, read_yaml_mapping(path, "spec"), f"spec {path}")
    try:
        actions = (
            ActionTable.discrete(file.actions)
            if isinstance(file.actions, list)
            else ActionTable.from_pairs(file.actions.types, file.actions.max_arguments)
        )
        return EnvironmentSpec(
            name=file.name, num_agents=file.num_agents, observation=_observation(file.observation), actions=actions
        )
    except ValueError as error:
        raise ValueError(f"spec {path}: {error}") from error


def _observation(entry: _ObservationEntry) -> TokenObservation | BoxObservation:
    if entry.shape is not None and entry.dtype is not None and entry.features is None:
        return BoxObservation(tuple(entry.shape), entry.dtype)
    sizes = (entry.num_tokens, entry.window_height, entry.window_width)
    if entry.features is None or entry.shape is not None or any(size is None for size in sizes):
        raise ValueError("observation needs num_tokens, window_height, window_width and features, or shape and dtype")
    num_tokens, window_height, window_width = (size for size in sizes if size is not None)
    features = tuple(Feature(f.id, f.name, f.normalization, f.categories) for f in entry.features)
    return TokenObservation(num_tokens, window_height, window_width, features)
