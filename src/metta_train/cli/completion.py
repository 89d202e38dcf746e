"""What the tab key offers: `metta-train -sc query=SHELL`, asked by the functions that `-sc install=SHELL` defines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from metta_train.cli.compose import Composition, compose, resolved
from metta_train.cli.config_source import ConfigSource
from metta_train.cli.help import NOT_COMPOSED, group_options
from metta_train.run_config import NO_KEYS, RunConfig
from metta_train.specs.config_docs import documented_keys
from metta_train.specs.config_errors import ConfigError, nearest_choice, shown
from metta_train.training.run_paths import MAX_NAME_PARTS

SHELLS = ("bash", "fish", "zsh")
# Option -> what may stand behind it; None: nothing, the option stands alone.
OPTIONS: Mapping[str, Sequence[str] | None] = {
    "--help": None,
    "--dry-run": None,
    "--cfg": ("job",),
    "--resolve": None,
    "--package": (),
    "--multirun": None,
    "--config-dir": (),
    "--config-path": (),
    "--config-name": (),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--version": None,
    "--hydra-help": None,
    "-h": None,
    "-m": None,
    "-c": ("job",),
    "-cd": (),
    "-sc": tuple(f"install={shell}" for shell in SHELLS),
}
FOLDERS = ("--config-dir", "-cd", "--config-path")
FILE_KEYS = ("env.config", "trainer.initial_policy.uri", "data_dir")
DEVICES = ("auto", "cpu", "cuda")
MAX_RUNS = 200


def asked_by(overrides: Sequence[str]) -> str | None:
    """The shell that asks for completions; None when it is told how to ask."""
    for override in overrides:
        command, _, shell = override.partition("=")
        if command == "query" and shell in SHELLS:
            return shell
    return None


def check_install(overrides: Sequence[str]) -> None:
    """Refuse what is not install=SHELL or uninstall=SHELL. Raises ConfigError."""
    known = [f"{command}={shell}" for command in ("install", "uninstall") for shell in SHELLS]
    for override in overrides or ("",):
        if override not in known:
            raise ConfigError(f"-sc {override}: needs one of {', '.join(known)}{nearest_choice(override, known)}")


def answer(shell: str, line: str, point: int | None, source: ConfigSource) -> str:
    """What the shell reads: words divided as it wants them."""
    return ("\n" if shell == "fish" else " ").join(candidates(line if point is None else line[:point], source))


def candidates(line: str, source: ConfigSource) -> list[str]:
    """The words that can stand at the end of a command line, each complete. A line with mistakes gets fewer."""
    words = line.split()[1:]
    word = words.pop() if words and not line[-1].isspace() else ""
    before = words[-1] if words else ""
    if before in FOLDERS:
        return _matching(word, _files(word, folders_only=True))
    behind = OPTIONS.get(before)
    if behind:
        return _matching(word, behind)
    if word.startswith("-"):
        return _matching(word, OPTIONS)
    source = _with_config_dir(source, words)
    overrides = [w for w in words if "=" in w and not w.startswith("-")]
    sign = "+" * (len(word) - len(word.lstrip("+")))
    tail = word.removeprefix(sign)
    for_help = "--help" in words or "-h" in words
    found = _values(tail, overrides, source) if "=" in tail else _keys(tail, overrides, source, for_help)
    return _matching(word, (sign + candidate for candidate in found))


def _matching(word: str, found: Sequence[str] | Mapping[str, object] | Iterator[str]) -> list[str]:
    return sorted({candidate for candidate in found if candidate.startswith(word) and " " not in candidate})


def _with_config_dir(source: ConfigSource, words: Sequence[str]) -> ConfigSource:
    for option, folder in pairwise(words):
        if option in ("--config-dir", "-cd") and Path(folder).expanduser().is_dir():
            return replace(source, extra_folder=Path(folder).expanduser().resolve())
    return source


def _composition(overrides: Sequence[str], source: ConfigSource) -> Composition | None:
    first = [override.partition(",")[0] for override in overrides]  # of a sweep the first value of each
    for attempt in (first, []):
        try:
            return compose(attempt, source)
        except ConfigError:
            continue
    return None


def _tree(overrides: Sequence[str], source: ConfigSource) -> Mapping[str, Any]:
    composition = _composition(overrides, source)
    try:
        return {} if composition is None else resolved(composition)
    except ConfigError:
        return {}


def _keys(word: str, overrides: Sequence[str], source: ConfigSource, for_help: bool) -> Iterator[str]:
    """Groups and keys, one level of dots at a time."""
    tree, options = _tree(overrides, source), group_options(source)
    sign = "" if for_help else "="
    if "." not in word:
        yield from (f"{group}{sign}" for group in options if for_help or group not in NOT_COMPOSED)
    parent, _, _ = word.rpartition(".")
    node: Any = tree
    for part in parent.split(".") if parent else ():
        node = node.get(part) if isinstance(node, dict) else None
    for name, value in node.items() if isinstance(node, Mapping) else ():
        key = f"{parent}.{name}" if parent else str(name)
        if isinstance(value, dict) and value:
            yield f"{key}."
        elif key not in options:
            yield f"{key}{sign}"


def _values(word: str, overrides: Sequence[str], source: ConfigSource) -> Iterator[str]:
    key, _, written = word.partition("=")
    head = written[: written.rfind(",") + 1]  # a sweep lists several values
    written = written.removeprefix(head)
    options = group_options(source)
    if key in options:
        yield from (f"{key}={head}{option}" for option in options[key])
        return
    tree = _tree(overrides, source)
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    offered: list[str] = []
    if key == "run":
        offered += _runs(Path(str(tree.get("data_dir", "train_dir"))).expanduser())
    elif key == "trainer.simulation.suite":
        offered += ["null", *options.get("eval", ())]
    elif key == "device":
        offered += DEVICES
    elif key in FILE_KEYS:
        offered += _files(written, folders_only=key != "env.config")
    else:
        offered += [
            choice for doc in documented_keys(RunConfig, skip=NO_KEYS) if doc.key == key for choice in doc.choices
        ]
        if not written and value is not None and not isinstance(value, dict | list):
            offered.append(shown(value))
    yield from (f"{key}={head}{choice}" for choice in offered)


def _runs(data_dir: Path) -> list[str]:
    """Names of runs: folders with a status, down to the jobs of sweeps."""
    found: list[str] = []
    for depth in range(1, MAX_NAME_PARTS + 1):
        for status in data_dir.glob("/".join(["*"] * depth) + "/status.json"):
            found.append(status.parent.relative_to(data_dir).as_posix())
            if len(found) == MAX_RUNS:
                return found
    return found


def _files(word: str, *, folders_only: bool) -> list[str]:
    """Paths that begin with `word`, folders with a slash behind them."""
    beginning, _, name = word.rpartition("/")
    folder = Path(beginning + "/" if word.startswith("/") or beginning else ".").expanduser()
    if not folder.is_dir():
        return []
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and not name.startswith("."):
                continue
            path = f"{beginning}/{entry.name}" if beginning or word.startswith("/") else entry.name
            if entry.is_dir():
                found.append(f"{path}/")
            elif not folders_only:
                found.append(path)
    return found
