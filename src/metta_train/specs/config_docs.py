"""What the fields of configuration models mean: the string that stands below each of them in the source.

Read from the source when somebody asks, so that a training does not pay for it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from metta_train.specs.config_errors import Schema, choices_of, json_schema, needs_in_words


def field_meanings(model: type[BaseModel]) -> dict[str, str]:
    """One line for each documented field, inherited ones included; keys as YAML spells them."""
    written: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            written |= _meanings_in(inspect.getsourcefile(base) or "").get(base.__qualname__, {})
    return {field.alias or name: written[name] for name, field in model.model_fields.items() if name in written}


def summary(model: type[BaseModel]) -> str:
    """The first sentence of the class's documentation."""
    text = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    return text.removesuffix(".")


@cache
def _meanings_in(file: str) -> dict[str, dict[str, str]]:
    """Class -> field -> meaning, of one source file."""
    classes = [node for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.ClassDef)]
    return {node.name: _meanings_of(node) for node in classes}


def _meanings_of(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for statement, below in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            found[statement.target.id] = " ".join(below.value.value.split())
    return found


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One key of the configuration.

    Attributes:
        key: dotted; `<name>` stands for a name of the user's own.
        needs: what it accepts, in words.
        meaning: one line; empty where the key only holds others.
        choices: the words that it accepts.
        conditions: keys with the values under which this key exists, e.g. `("env.type", "gymnasium")`.
    """

    key: str
    needs: str
    meaning: str
    choices: tuple[str, ...] = ()
    conditions: tuple[tuple[str, str], ...] = ()


def documented_keys(model: type[BaseModel], prefix: str = "", skip: frozenset[str] = frozenset()) -> list[KeyDoc]:
    """Every key below `model`, those of all branches of a union included, in the order of the source."""
    schema = json_schema(model)
    properties = {name: node for name, node in schema["properties"].items() if name not in skip}
    walk = _Walk(schema, _models_below(model))
    return list(walk.keys(model, {"properties": properties}, prefix, ()))


@dataclass(frozen=True, slots=True)
class _Walk:
    schema: Schema
    models: Mapping[str, type[BaseModel]]

    def keys(
        self, model: type[BaseModel], node: Schema, prefix: str, conditions: tuple[tuple[str, str], ...]
    ) -> Iterator[KeyDoc]:
        meanings, properties = field_meanings(model), node.get("properties", {})
        if len(properties) == 1:  # what a model of one field is, the field means
            meanings = dict.fromkeys(properties, summary(model)) | meanings
        conditions += tuple(
            (f"{prefix}{name}", child["const"]) for name, child in properties.items() if "const" in child
        )
        for name, child in properties.items():
            key, meaning = f"{prefix}{name}", meanings.get(name, "")
            inner = list(_objects_in(child, key, self.schema))
            if meaning or not inner:
                needs, choices = needs_in_words(child, self.schema), choices_of(child, self.schema)
                yield KeyDoc(key, needs, meaning, choices, conditions)
            for inner_key, title in inner:
                yield from self.keys(self.models[title], self.schema["$defs"][title], f"{inner_key}.", conditions)


def _objects_in(node: Schema, key: str, schema: Schema) -> Iterator[tuple[str, str]]:
    """(key, name of the model) of each model that may stand at a node, or by name below it."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if "properties" in schema["$defs"][name]:
            yield key, name
    for branch in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _objects_in(branch, key, schema)
    for further in (node.get("additionalProperties"), *node.get("patternProperties", {}).values()):
        if isinstance(further, dict):
            yield from _objects_in(further, f"{key}.<name>", schema)


def _models_below(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    waiting: list[object] = [model]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind.__name__ in found:
                continue
            found[kind.__name__] = kind
            waiting += [field.annotation for field in kind.model_fields.values()]
        else:
            waiting += get_args(kind)
    return found
