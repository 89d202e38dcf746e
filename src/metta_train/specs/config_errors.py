"""What a closed configuration model says when it is violated: one line with the key, what it got and what it needs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path as FilePath
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_SHOWN = 60  # characters of a wrong value that a message repeats

Schema = Mapping[str, Any]  # a node of a JSON schema
Path = tuple[str | int, ...]


class ConfigError(ValueError):
    """A user's mistake in the configuration; the message is one line and names the key."""


def describe(error: ValidationError, values: Mapping[str, Any], schema: Schema) -> str:
    """The most useful violation as one line; others are counted.

    Args:
        error: from validating `values`.
        values: plain values.
        schema: `model_json_schema()` of the model.
    """
    groups: dict[Path, list[ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        groups.setdefault(key_path(problem, values), []).append(problem)
    # An unknown key is often the reason for a missing one, so it is told first.
    unknown = [path for path, problems in groups.items() if problems[0]["type"] == "extra_forbidden"]
    path = (unknown or list(groups))[0]
    more = len(groups) - 1
    return _message(path, groups[path][0], values, schema) + (f" (and {more} more)" if more else "")


@cache
def json_schema(model: type[BaseModel]) -> Schema:
    """The schema that `describe` reads; keys as YAML spells them. To be read only: everyone gets the same one."""
    return model.model_json_schema(by_alias=True)


def needs_in_words(node: Schema, schema: Schema) -> str:
    """What a node of the schema accepts: "a whole number greater than 0 or auto"."""
    leaves = _expanded(node, None, schema.get("$defs", {}))
    groups = [leaf for leaf in leaves if leaf.get("type") == "object" and leaf.get("properties")]
    words = ["keys of its own" if leaf in groups else _needs(leaf) for leaf in leaves]
    return " or ".join(dict.fromkeys(words))


def choices_of(node: Schema, schema: Schema) -> tuple[str, ...]:
    """The words that a node of the schema accepts, as one writes them; empty where it takes anything else alone."""
    words: list[str] = []
    for leaf in _expanded(node, None, schema.get("$defs", {})):
        words += [str(choice) for choice in leaf.get("enum", ())]
        words += [str(leaf["const"])] if "const" in leaf else []
        words += {"boolean": ["true", "false"], "null": ["null"]}.get(str(leaf.get("type")), [])
    return tuple(dict.fromkeys(words))


def is_open(schema: Schema, path: Path, values: Mapping[str, Any]) -> bool:
    """Whether the mapping at `path` takes keys that the schema does not name."""
    return any(
        node.get("additionalProperties") or "patternProperties" in node for node in _nodes_at(schema, path, values)
    )


def unknown_key(key: str, known: Iterable[str]) -> str:
    """`"unknown key; did you mean trainer.batch_size?"`; `known` are dotted keys, groups of keys included."""
    known = list(known)
    nearest = nearest_key(key, known)
    if nearest is not None:
        return f"unknown key; did you mean {nearest}?"
    parent = key.rpartition(".")[0]
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    return "unknown key" + (f"; known are {', '.join(siblings)}" if siblings else "")


def nearest_key(key: str, known: Sequence[str]) -> str | None:
    """The dotted key that was probably meant: mended in every part, or of the same name; else its mended beginning."""
    parts, mended = key.split("."), ""
    for number, part in enumerate(parts):
        siblings = [k.removeprefix(mended) for k in known if k.startswith(mended) and "." not in k.removeprefix(mended)]
        near = [part] if part in siblings else difflib.get_close_matches(part, siblings, n=1, cutoff=0.6)
        if not near:
            break
        mended += f"{near[0]}."
        if number == len(parts) - 1:
            return mended[:-1]
    same_name = [k for k in known if k.rpartition(".")[2] == parts[-1]]
    near = difflib.get_close_matches(key, same_name, n=1, cutoff=0.0)
    if near:
        return near[0]
    return None if key.startswith(mended) else mended[:-1]


def nearest_choice(value: object, choices: Sequence[str]) -> str:
    """`"; did you mean x?"`, or nothing."""
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_path(path: str) -> str:
    """`"; did you mean conf/game.yaml?"` where a folder of the path or the file itself was misspelt, or nothing."""
    given = FilePath(path).expanduser()
    mended = FilePath(given.anchor)
    for part in given.relative_to(given.anchor).parts:
        try:
            names = [entry.name for entry in mended.iterdir()]
        except OSError:
            return ""
        near = [part] if part in names or part == ".." else difflib.get_close_matches(part, names, n=1, cutoff=0.6)
        if not near:
            return ""
        mended /= near[0]
    return "" if mended == given else f"; did you mean {mended}?"


def dotted_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All keys of nested mappings, inner ones behind their outer one."""
    keys: list[str] = []
    for key, value in values.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys.extend(dotted_keys(cast("Mapping[str, Any]", value), f"{prefix}{key}."))
    return keys


def shown(value: object) -> str:
    """A value as one would write it on the command line, shortened."""
    if isinstance(value, str):
        text = value if value and value == value.strip() and value.isprintable() else repr(value)
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def key_path(problem: ErrorDetails, values: Mapping[str, Any]) -> Path:
    """The keys in pydantic's location; it also holds names of union branches, which are no keys."""
    path: list[str | int] = []
    node: Any = values
    for part in problem["loc"]:
        if isinstance(node, Mapping) and part in node:
            node = cast("Mapping[Any, Any]", node)[part]
        elif not (isinstance(node, list | tuple) and isinstance(part, int)):
            continue
        else:
            node = cast("Sequence[Any]", node)[part]
        path.append(part)
    if problem["type"] == "missing":
        path.append(problem["loc"][-1])
    return tuple(path)


def _message(path: Path, problem: ErrorDetails, values: Mapping[str, Any], schema: Schema) -> str:
    key = ".".join(map(str, path))
    kind, got = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        parent = path[:-1]
        prefix = "".join(f"{part}." for part in parent)
        known = [f"{prefix}{name}" for node in _nodes_at(schema, parent, values) for name in node.get("properties", ())]
        known += [k for k in dotted_keys(values) if k != key and not k.startswith(f"{key}.") and k not in known]
        return f"{key}={shown(got)}: {unknown_key(key, known)}"
    if kind == "value_error":
        return _own_message(path, problem, got)
    nodes = _nodes_at(schema, path, values)
    groups = [node for node in nodes if node.get("type") == "object"]
    if len(groups) > 1:  # branches of a union; their keys would fill lines
        nodes = [{"type": "object"}, *(node for node in nodes if node not in groups)]
    needs = " or ".join(dict.fromkeys(_needs(node) for node in nodes)) or problem["msg"]
    if kind == "missing":
        return f"{key}: missing; needs {needs}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _tag_message(key, problem, got)
    choices = [
        str(choice)
        for node in nodes
        for choice in (*node.get("enum", ()), *([node["const"]] if "const" in node else ()))
    ]
    hint = nearest_choice(got, choices) if isinstance(got, str) else ""
    if kind == "string_type" and isinstance(got, int | float) and not isinstance(got, bool):
        hint = f"; quote it: \"{key}='{got}'\""
    return f"{key}={shown(got)}: needs {needs}{hint}"


def _own_message(path: Path, problem: ErrorDetails, got: object) -> str:
    """A validator's own words, with the path in front."""
    words = str(problem.get("ctx", {}).get("error", problem["msg"]))
    if not path:
        return words
    key = ".".join(map(str, path))
    return f"{key}.{words}" if isinstance(got, Mapping) else f"{key}={shown(got)}: {words}"


def _tag_message(key: str, problem: ErrorDetails, got: object) -> str:
    context = problem.get("ctx", {})
    name = str(context.get("discriminator", "type")).strip("'")
    choices = [choice.strip(" '") for choice in str(context.get("expected_tags", "")).split(",") if choice.strip(" '")]
    tag = cast("Mapping[str, Any]", got).get(name)
    if tag is None:
        return f"{key}.{name}: missing" + (f"; needs {_one_of(choices)}" if choices else "")
    return f"{key}.{name}={shown(tag)}: needs {_one_of(choices)}{nearest_choice(tag, choices)}"


def _nodes_at(schema: Schema, path: Path, values: Mapping[str, Any]) -> list[Schema]:
    """The schema nodes that may describe the value at `path`; several for a union."""
    definitions: Schema = schema.get("$defs", {})
    node_values: Any = values
    nodes = _expanded(schema, node_values, definitions)
    for part in path:
        node_values = _child(node_values, part)
        inner = [child for node in nodes for child in _inner(node, part)]
        nodes = [leaf for node in inner for leaf in _expanded(node, node_values, definitions)]
    return nodes


def _child(values: Any, part: str | int) -> Any:  # noqa: ANN401  # plain data of any shape
    if isinstance(values, Mapping):
        return cast("Mapping[Any, Any]", values).get(part)
    if isinstance(values, list | tuple) and isinstance(part, int):
        return cast("Sequence[Any]", values)[part]
    return None


def _inner(node: Schema, part: str | int) -> list[Schema]:
    if isinstance(part, int):
        return [node["items"]] if "items" in node else []
    if part in node.get("properties", {}):
        return [node["properties"][part]]
    further = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    return [schema for schema in further if isinstance(schema, Mapping)]


def _expanded(node: Schema, values: Any, definitions: Schema) -> list[Schema]:  # noqa: ANN401  # plain data of any shape
    """References followed and unions opened; a discriminator picks the branch that the values name."""
    if "description" in node and node.get("type") != "object":
        return [node]
    if "$ref" in node:
        return _expanded(definitions[node["$ref"].rpartition("/")[2]], values, definitions)
    branches = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    discriminator = node.get("discriminator")
    if discriminator is not None and isinstance(values, Mapping):
        tag = cast("Mapping[str, Any]", values).get(discriminator["propertyName"])
        if tag in discriminator["mapping"]:
            branches = [{"$ref": discriminator["mapping"][tag]}]
    if not branches:
        return [node]
    return [leaf for branch in branches for leaf in _expanded(branch, values, definitions)]


def _needs(node: Schema) -> str:
    """In words, what a schema node accepts."""
    kind = node.get("type")
    if "description" in node and kind != "object":
        return node["description"]
    if "const" in node:
        return str(node["const"])
    if "enum" in node:
        return _one_of([str(choice) for choice in node["enum"]])
    if kind in ("integer", "number"):
        return _needs_number("a whole number" if kind == "integer" else "a number", node)
    if kind == "string":
        if "pattern" in node:
            return f"a text that matches {node['pattern']}"
        return "a text that is not empty" if node.get("minLength") else "a text"
    words = {
        "boolean": "true or false",
        "null": "null",
        "array": "a list, like [a,b]",
        "object": "keys of its own" + (f": {', '.join(node['properties'])}" if node.get("properties") else ""),
    }
    return words.get(str(kind), "another value")


def _needs_number(noun: str, node: Schema) -> str:
    bounds = [
        f"{words} {node[name]:g}"
        for name, words in (
            ("exclusiveMinimum", "greater than"),
            ("minimum", "of at least"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if name in node
    ]
    return f"{noun} {' and '.join(bounds)}" if bounds else noun


def _one_of(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
