"""Results on stdout: for people on a terminal, plain and complete in a pipe, or as JSON."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metta_train.reporting.terminal_chart import Glyphs

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_WIDTH = 140  # columns where the output is no terminal and COLUMNS says nothing


def results_console() -> Console:
    """The console of results; characters that the output cannot show become question marks."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(file=sys.stdout, highlight=False, width=width)


def glyphs_of(console: Console) -> Glyphs:
    """What the console can show."""
    colour = console.is_terminal and console.color_system is not None and not console.no_color
    return Glyphs(braille=console.encoding.startswith("utf"), colour=colour)


def print_results(console: Console, parts: Iterable[RenderableType]) -> None:
    """Print one below the other; a pipe gets no trailing spaces."""
    if console.is_terminal:
        for part in parts:
            console.print(part)
        return
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    sys.stdout.write(text)


def shown_path(path: Path) -> Path:
    """Relative when it lies below the working directory, as one would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def print_json(value: object) -> None:
    """One JSON document; dataclasses are objects, paths are texts, numbers that JSON lacks are null."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def plain(value: Any) -> Any:  # noqa: ANN401  # any plain data
    """A value as JSON knows it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
