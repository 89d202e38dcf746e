"""What `metta-sweep` shows: a line when a trial changes, and a table of the best at the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.reporting.run_view import duration, number
from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.sweeps.config import SweepConfig, Value
from metta_train.sweeps.job_names import short_keys
from metta_train.sweeps.job_results import CSV_NAME
from metta_train.sweeps.trial import Trial

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BEST = 10  # trials in the table
_LABEL = "dim"
_STATE_STYLE = {"done": "green", "pruned": "yellow", "failed": "red", "stopped": "yellow", "running": "cyan"}


def trial_line(trial: Trial, *, is_best: bool = False) -> str:
    """One line about a trial that begins, with its values, or ends; `is_best` so far."""
    labels = short_keys(list(trial.values))
    values = " ".join(f"{labels[key]}={_shown(value)}" for key, value in trial.values.items())
    told = {
        "running": f"started with {values}",
        "done": f"done: {number(trial.score)} in {_time(trial)}{', the best so far' if is_best else ''}",
        "pruned": f"stopped as hopeless at {trial.agent_step:,} agent steps, {number(trial.score)} in {_time(trial)}",
        "failed": f"failed with {trial.code}: {trial.reason}",
        "stopped": f"saved at {trial.agent_step:,} agent steps",
    }
    return f"{trial.name} {told[trial.state]}"


def report(name: str, config: SweepConfig, ranked: Sequence[Trial], width: int) -> list[RenderableType]:
    """Everything for the terminal.

    Args:
        name: of the search.
        config: of the search.
        ranked: its trials, the best one first.
        width: columns.
    """
    from rich.text import Text

    counts = {state: sum(trial.state == state for trial in ranked) for state in _STATE_STYLE}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    goal = "higher" if config.goal == "maximize" else "lower"
    parts: list[RenderableType] = [
        Text.assemble(
            (name, "bold"), f": {_count(len(ranked), 'trial')} with {config.method}{', ' + told if told else ''}"
        )
    ]
    scored = [trial for trial in ranked if trial.score is not None]
    if scored:
        parts.append(Text(f"{config.metric}, mean over the last tenth of each trial ({goal} is better)", style=_LABEL))
        parts += [Text(), _best_table(scored[:BEST], config, width)]
        if len(scored) > BEST:
            parts.append(Text(f"and {len(scored) - BEST} more", style=_LABEL))
    failed = sorted((trial for trial in ranked if trial.state == "failed"), key=lambda trial: trial.number)
    if failed:
        parts += [Text(), _failure_table(failed)]
    return parts


def write_trials_csv(folder: Path, name: str, config: SweepConfig, trials: Sequence[Trial]) -> Path:
    """`sweep.csv`: one line per trial, a column per parameter. Raises StorageError."""
    keys = list(config.parameters)
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["run", "state", *keys, "objective", "agent_step", "seconds", "code", "reason"])
    for trial in trials:
        values = [trial.values.get(key, "") for key in keys]
        run = f"{name}/{trial.name}"
        lines.writerow(
            [run, trial.state, *values, trial.score, trial.agent_step, trial.seconds, trial.code, trial.reason or ""]
        )
    file = folder / CSV_NAME
    with storage_errors("write", file):
        replace_file(file, text.getvalue().encode())
    return file


def _best_table(trials: Sequence[Trial], config: SweepConfig, width: int) -> Table:
    """A column per parameter where they fit, else one with all of them."""
    from rich.text import Text

    table = _table()
    labels = short_keys(list(config.parameters))
    table.add_column("trial", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    columns = {key: [_shown(trial.values[key]) for trial in trials] for key in config.parameters}
    needed = sum(2 + max(len(labels[key]), *map(len, texts)) for key, texts in columns.items())
    fit = needed <= width - len("trial-0000  pruned  0.0000  0:00:00  ")
    for key in config.parameters if fit else ():
        table.add_column(labels[key], justify="right", no_wrap=True)
    if not fit:
        table.add_column("values", overflow="fold")
    for position, trial in enumerate(trials):
        values = [texts[position] for texts in columns.values()]
        if not fit:
            values = [" ".join(f"{labels[key]}={text}" for key, text in zip(columns, values, strict=True))]
        state = Text(trial.state, style=_STATE_STYLE[trial.state])
        table.add_row(trial.name, state, number(trial.score), _time(trial), *values)
    return table


def _failure_table(trials: Sequence[Trial]) -> Table:
    table = _table()
    table.add_column("failed", no_wrap=True)
    table.add_column("code", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for trial in trials:
        table.add_row(trial.name, str(trial.code), trial.reason or "-")
    return table


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_LABEL)


def _time(trial: Trial) -> str:
    return "-" if trial.seconds is None else duration(trial.seconds)


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(amount: int, noun: str) -> str:
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"
