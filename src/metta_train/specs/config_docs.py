"""What the fields of configuration models mean: the string that stands below each of them in the source.

Read from the source when somebody asks, so that a training does not pay for it.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

from pydantic import BaseModel


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
