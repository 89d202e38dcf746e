"""MettaGrid configs from YAML and JSON files: data only, nothing in a file is run."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from mettagrid.config.mettagrid_config import MettaGridConfig
from pydantic import ValidationError

from metta_train.specs.config_errors import nearest_path

LIBRARY = "mettagrid."


def read_game(path: str) -> MettaGridConfig:
    """The MettaGrid config in a file; relative paths start at the working directory.

    Raises:
        ValueError: names the file and the reason, when it cannot be read or does not hold a valid config.
    """
    data = _parse(path)
    if not isinstance(data, dict):
        raise ValueError(f"env.config={path}: got a {type(data).__name__}, needs a mapping with the key 'game'")
    _refuse_foreign_types(data, path, key="")
    try:
        return MettaGridConfig.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"env.config={path}: not a valid MettaGrid config: {_first_reason(error)}") from None
    except (ImportError, TypeError) as error:  # a `type` that names no builder or scene of the library
        raise ValueError(f"env.config={path}: not a valid MettaGrid config: {error}") from None


def _parse(path: str) -> object:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"env.config={path}: cannot be read: {error.strerror}{nearest_path(path)}") from None
    except UnicodeDecodeError:
        raise ValueError(f"env.config={path}: is not text in UTF-8; needs a YAML or JSON file") from None
    try:
        return json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"env.config={path}: is not JSON: {error}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"env.config={path}: is not YAML: {reason}") from None


def _refuse_foreign_types(data: object, path: str, key: str) -> None:
    """MettaGrid imports the class that a map's `type` names, so only the library's own are let through."""
    if isinstance(data, dict):
        named = data.get("type")
        if isinstance(named, str) and "." in named and not named.startswith(LIBRARY):
            raise ValueError(
                f"env.config={path}: {key}type: got {named!r}, needs a map builder or scene of the MettaGrid library "
                f"({LIBRARY}...); files cannot import other code"
            )
        for name, value in data.items():
            _refuse_foreign_types(value, path, f"{key}{name}.")
    elif isinstance(data, list):
        for index, value in enumerate(data):
            _refuse_foreign_types(value, path, f"{key}{index}.")


def _first_reason(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_context=False)
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {first['msg']}{more}"
