"""Validation of settings that only the class which uses them knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the known names when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are: {', '.join(names)}" if names else ""


def validated(model: type[Model], settings: Mapping[str, Any], where: str, also_known: Iterable[str] = ()) -> Model:
    """Build `model` from `settings`.

    Args:
        model: the schema.
        settings: plain values, as YAML gives them.
        where: what the settings belong to; opens the message, e.g. `"component 'fc1'"`.
        also_known: keys that are valid beside the model's own, for suggestions.

    Raises:
        ValueError: one line that names `where`, the key, what it got and what it needs.
    """
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        # An unknown key often is the reason why another one is missing, so it is reported first.
        problems = error.errors(include_url=False)
        problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path)
        if problem["type"] == "extra_forbidden":
            known = {*_fields_at(model, path[:-1]), *(also_known if len(path) == 1 else ())}
            raise ValueError(f"{where}: unknown key {key!r}{nearest(path[-1], known)}") from error
        if problem["type"] == "missing":
            raise ValueError(f"{where}: key {key!r} is missing") from error
        raise ValueError(f"{where}: {key}: got {problem['input']!r}: {problem['msg']}") from error


def _fields_at(model: type[BaseModel], path: Iterable[str]) -> set[str]:
    """The field names (as YAML spells them) of the model that lies at `path` inside `model`."""
    inner: type[BaseModel] = model
    for part in path:
        annotation = inner.model_fields[part].annotation if part in inner.model_fields else None
        candidates = [annotation, *get_args(annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return set()
        inner = models[0]
    return {field.alias or name for name, field in inner.model_fields.items()}
