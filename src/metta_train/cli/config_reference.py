"""The reference of all keys, made from the models: `python -m metta_train.cli.config_reference docs/config.md`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel

from metta_train.cli.arguments import reported
from metta_train.cli.compose import compose, resolved
from metta_train.cli.config_source import ConfigSource, conf_folder
from metta_train.cli.exit_codes import DONE
from metta_train.cli.help import GROUPS, first_words, group_options
from metta_train.cli.suites import Suite
from metta_train.run_config import NO_KEYS, RunConfig
from metta_train.specs.config_docs import KeyDoc, documented_keys, summary
from metta_train.specs.config_errors import ConfigError, shown

COMMAND = "python -m metta_train.cli.config_reference docs/config.md"
INTRODUCTION = """# Every key of the configuration

Made from the models that check a configuration and from the files in `conf/`, by `{command}`.
On the command line `metta-train --help trainer.ppo` tells the same for the keys below a word, with the values that a
run would have, and `metta-train --cfg job` prints a whole configuration.

A key is set as `key=value`, a group chosen as `group=option`; `+key=value` adds a key below one whose names are your
own. `auto` is resolved from the device, the environment and the other sizes when a training starts. Amounts are agent
steps, intervals are epochs.

```sh
metta-train --help trainer.ppo
metta-train --cfg job trainer=gpu env=arena
metta-train --dry-run trainer.bptt_horizon=32
```

## Groups of your own

Put files into folders named after the groups, for example `conf/trainer/mine.yaml`, and choose them by name:
`trainer=mine`. Of two files of the same name the earlier one wins:

| | searched | |
|---|---|---|
| 1 | metta-train's own `conf/` | a shipped name means the same on every machine |
| 2 | `--config-dir FOLDER` | |
| 3 | `hydra.searchpath=[file:///FOLDER]` | |
| 4 | `METTA_TRAIN_SEARCH_PATH` | folders divided by colons, in their order |
| 5 | `./conf` | in the folder where the command is given |
| 6 | installed packages | entry points `metta_train.conf`: see [own-env.md](own-env.md) |

Choosing a file of folders 2 to 4 that has a shipped name is an error, because it would not be used; in `./conf`, which
may belong to another program, and in packages it is a warning. A run records the folders and the files that were used
in its `invocations.jsonl`. Suites (`conf/eval/`) and search spaces (`conf/sweep/`) are files that you name to be played
or searched: there yours come before metta-train's.

## Exit codes of `metta-train --dry-run` and `metta-train`

0 done · 2 something in the configuration does not fit, one line says what · 6 the environments do not start or step ·
further codes in [reliability.md](reliability.md). A dry run writes nothing.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page to a file, or print it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def write() -> int:
        if len(arguments) > 1:
            raise ConfigError(f"needs one file, like {COMMAND}")
        if arguments:
            Path(arguments[0]).write_text(page())
        else:
            sys.stdout.write(page())
        return DONE

    return reported(write)


def page() -> str:
    """The whole page."""
    source = ConfigSource(conf_folder())
    shipped = {
        group: {name: file for name, file in files.items() if file.is_relative_to(source.folder)}
        for group, files in group_options(source).items()
    }
    docs = documented_keys(RunConfig, skip=NO_KEYS)
    parts = [
        INTRODUCTION.format(command=COMMAND),
        _top(docs, source),
        *(_group(group, docs, shipped[group], source) for group in ("agent", "py_agent", "env", "trainer", "wandb")),
        _experiments(shipped["experiment"]),
        _suites(shipped["eval"]),
    ]
    return "\n".join(parts)


def _top(docs: Sequence[KeyDoc], source: ConfigSource) -> str:
    tree = OmegaConf.to_container(compose([], source).tree, resolve=False)
    assert isinstance(tree, dict)
    own = [doc for doc in docs if doc.key.partition(".")[0] not in GROUPS]
    rows = [(doc, {"default": _at(tree, doc.key)}) for doc in own]
    return "## A run\n\n" + _table(rows, ("default",))


def _group(group: str, docs: Sequence[KeyDoc], files: Mapping[str, Path], source: ConfigSource) -> str:
    lines = [f"## `{group}`: {GROUPS[group]}", ""]
    lines += [f"- `{group}={name}`: {first_words(file) or 'the default: none'}." for name, file in files.items()]
    values = {name: resolved(compose([f"{group}={name}"], source)) for name in files}
    own = [doc for doc in docs if doc.key.startswith(f"{group}.")]
    for conditions in dict.fromkeys(doc.conditions for doc in own):
        fitting = tuple(
            name for name in files if values[name].get(group) and all(_at(values[name], k) == v for k, v in conditions)
        )
        if conditions:
            lines += ["", f"### {' and '.join(f'`{key}={value}`' for key, value in conditions)}"]
        rows = [
            (doc, {name: _at(values[name], doc.key) for name in fitting}) for doc in own if doc.conditions == conditions
        ]
        columns = tuple(name for name in fitting if any(of[name] is not _ABSENT for _, of in rows))
        lines += ["", _table(rows, columns).rstrip("\n")]
    if group == "agent":
        lines += ["", *_components()]
    if group == "py_agent":
        lines += ["", *_py_agents(values)]
    return "\n".join(lines) + "\n"


def _components() -> list[str]:
    from metta_train.policies.component_graph.library import LIBRARY  # torch

    lines = [
        "### Classes of components",
        "",
        "A component is a name with these keys below it: `agent.components.<name>.nn_params.out_features=64`.",
        "",
        "| class | what it does | its keys |",
        "|---|---|---|",
    ]
    for name, component in sorted(LIBRARY.items()):
        docs = documented_keys(component, skip=frozenset({"class", "class_name", "sources"}))
        keys = "; ".join(f"`{doc.key}`: {doc.needs}" for doc in docs)
        lines.append(f"| `{name}` | {_cell(summary(component))} | {_cell(keys)} |")
    return lines


def _py_agents(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    from metta_train.policies.py_agents.registry import py_agent_class  # torch

    lines: list[str] = []
    for name, tree in values.items():
        chosen = tree.get("py_agent")
        if not isinstance(chosen, Mapping):
            continue
        options: type[BaseModel] = py_agent_class(chosen["agent_type"]).Options
        docs = documented_keys(options, prefix="py_agent.")
        lines += [f"### `py_agent={name}`", "", _table([(doc, {name: _at(tree, doc.key)}) for doc in docs], (name,))]
    return "\n".join(lines).rstrip("\n").splitlines()


def _experiments(files: Mapping[str, Path]) -> str:
    lines = [f"## `experiment`: {GROUPS['experiment']}", ""]
    lines += [f"- `experiment={name}`: {first_words(file)}." for name, file in files.items()]
    return "\n".join(lines) + "\n"


def _suites(files: Mapping[str, Path]) -> str:
    lines = [f"## `conf/eval/`: {GROUPS['eval']}", ""]
    lines += [f"- `{name}`: {first_words(file)}." for name, file in files.items()]
    rows = [(doc, {}) for doc in documented_keys(Suite)]
    return "\n".join(lines) + "\n\n" + _table(rows, ())


class _Absent:
    """No such key in a file."""


_ABSENT = _Absent()


def _at(values: object, key: str) -> object:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _table(rows: Sequence[tuple[KeyDoc, Mapping[str, object]]], columns: Sequence[str]) -> str:
    titles = ["key", *columns, "meaning", "needs"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for doc, values in rows:
        cells = [f"`{doc.key}`", *(_value(values[column]) for column in columns), _cell(doc.meaning), _cell(doc.needs)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, _Absent):
        return ""
    return "`{...}`" if isinstance(value, Mapping) and value else f"`{shown(value)}`"


def _cell(text: str) -> str:
    """Text in a table; what stands between angle brackets is no HTML."""
    return text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    sys.exit(main())
