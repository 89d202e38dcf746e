"""What `metta-runs` shows: tables and charts for any width from 80 columns on, with or without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metta_train.reporting.curves import LAST_SHARE, Curve
from metta_train.reporting.metric_names import SCORE_PREFIX, SCORE_SUFFIX
from metta_train.reporting.results import shown_path
from metta_train.reporting.run_view import duration, number, sparkline
from metta_train.reporting.terminal_chart import COLOURS, Glyphs, amount, terminal_chart
from metta_train.specs.run_summary import CheckpointInfo, RunSummary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

CONDITION_STYLE = {
    "running": "cyan",
    "done": "green",
    "interrupted": "yellow",
    "failed": "red",
    "crashed": "bold red",
}
_LABEL = "dim"
_SPARKS = 24  # columns
_WIDE = 110  # columns from which on a list also shows curves, and those below where they come from
_WIDER = 150
_MAX_CHART = 120
_CHART_ROWS = 13


@dataclass(frozen=True, slots=True)
class RunDetails:
    """All that is told about one run.

    Attributes:
        summary: at a glance.
        checkpoints: of the run.
        best: name of the best one; None without scores.
        seed: of the run.
        device: that the configuration asks for.
        starts: how often it was started.
        command: of the last start.
        versions: of packages, at the last start.
        seconds: wall time so far; None before the first epoch.
        best_reward: of all epochs.
        curve: of the reward.
        latest: the metrics of the last epoch.
    """

    summary: RunSummary
    checkpoints: tuple[CheckpointInfo, ...]
    best: str | None
    seed: int | None
    device: str | None
    starts: int
    command: str | None
    versions: Mapping[str, str]
    seconds: float | None
    best_reward: float | None
    curve: Curve
    latest: Mapping[str, float | None]


def run_list(runs: Sequence[RunSummary], width: int, *, sparks: bool) -> Table:
    """One line per run; narrow terminals lose columns, never a part of a name.

    Args:
        runs: in the order of the lines.
        width: columns of the terminal.
        sparks: whether the output can show them.
    """
    columns: list[tuple[str, str, Sequence[Text | str]]] = [
        ("run", "left", [run.name for run in runs]),
        ("state", "left", [_condition(run.condition) for run in runs]),
        ("steps", "right", [amount(run.agent_step) for run in runs]),
        ("done", "right", [_share(run) for run in runs]),
        ("reward", "right", [number(run.reward) for run in runs]),
        ("steps/s", "right", [_rate(run.steps_per_second) for run in runs]),
        ("age", "right", [age(run.age) for run in runs]),
        ("saved", "right", [str(run.checkpoints) for run in runs]),
    ]
    if width >= _WIDE:
        columns[3] = ("of", "right", [amount(run.total_timesteps) if run.total_timesteps else "-" for run in runs])
        if sparks:
            columns.insert(5, ("reward so far", "left", [_spark(run.rewards) for run in runs]))
    if width >= _WIDER:
        columns.append(("agent", "left", [run.agent or "-" for run in runs]))
        columns.append(("environment", "left", [run.environment or "-" for run in runs]))
    for dispensable in ("saved", "done", "steps/s"):
        if _natural_width(columns) <= width:
            break
        columns = [column for column in columns if column[0] != dispensable]
    table = _table()
    for title, justify, _ in columns:
        last_resort = "fold" if title == "run" else "ellipsis"
        table.add_column(title, justify=justify, no_wrap=title != "run", overflow=last_resort)  # pyright: ignore[reportArgumentType]  # literals
    for row in zip(*(values for _, _, values in columns), strict=True):
        table.add_row(*row)
    return table


def run_details(details: RunDetails, width: int, glyphs: Glyphs) -> list[RenderableType]:
    """A page about one run."""
    from rich.text import Text

    run = details.summary
    title = Text.assemble((run.name, "bold"), "  ", _condition(run.condition))
    if run.message:
        title.append(f"  {run.message}")
    total = f" of {run.total_timesteps:,}" if run.total_timesteps else ""
    facts = [
        ("steps", f"{run.agent_step:,}{total} ({_share(run)}), epoch {run.epoch}"),
        ("reward", _reward(details)),
        *_evaluations(details.latest),
        ("speed", f"{_rate(run.steps_per_second)} steps/s" + _total_time(details.seconds)),
        ("trains", " · ".join(word for word in _origin(details) if word)),
        ("saved", _saved(details)),
        ("last sign", f"{age(run.age)} ago, started {_times(details.starts)}"),
        ("folder", str(shown_path(run.folder))),
    ]
    if details.command:
        facts.append(("command", details.command))
    if details.versions:
        facts.append(("versions", "  ".join(f"{name} {text}" for name, text in details.versions.items())))
    parts: list[RenderableType] = [title, _facts(facts)]
    if len(details.curve.x):
        parts += [Text(), Text("reward per episode and agent", style=_LABEL)]
        parts += _chart([(run.name, details.curve)], width, glyphs)
    return parts


def comparison(
    runs: Sequence[RunDetails],
    differences: Sequence[tuple[str, str, str]],
    metrics: Sequence[tuple[str, tuple[Curve, ...]]],
    width: int,
    glyphs: Glyphs,
) -> list[RenderableType]:
    """Two runs side by side: how they stand, where their configurations differ, their curves.

    Args:
        runs: two.
        differences: key and the value in each run.
        metrics: name and the curve of each run.
        width: columns.
        glyphs: what the output can show.
    """
    from rich.text import Text

    names = [details.summary.name for details in runs]
    table = _table()
    table.add_column("")
    for index, name in enumerate(names):
        table.add_column(Text(name, style=COLOURS[index]), justify="right", overflow="fold")
    rows: list[tuple[str, Sequence[Text | str]]] = [
        ("state", [_condition(d.summary.condition) for d in runs]),
        ("agent steps", [f"{d.summary.agent_step:,}" for d in runs]),
        ("time", ["-" if d.seconds is None else duration(d.seconds) for d in runs]),
        ("steps/s", [_rate(d.summary.steps_per_second) for d in runs]),
        ("best reward", [number(d.best_reward) for d in runs]),
    ]
    rows += [(f"{name}, last tenth", [number(c.last_tenth) for c in curves]) for name, curves in metrics]
    for label, cells in rows:
        table.add_row(Text(label, style=_LABEL), *cells)
    parts: list[RenderableType] = [table, Text()]
    if differences:
        changed = _table()
        changed.add_column("configuration", overflow="fold")
        for index, name in enumerate(names):
            changed.add_column(Text(name, style=COLOURS[index]), overflow="fold")
        for key, old, new in differences:
            changed.add_row(key, old, new)
        parts.append(changed)
    else:
        parts.append(Text("the configurations are equal"))
    for name, curves in metrics:
        parts += [Text(), Text(name, style=_LABEL)]
        parts += _chart(list(zip(names, curves, strict=True)), width, glyphs)
    return parts


def checkpoint_list(saved: Sequence[CheckpointInfo], *, latest: str | None, best: str | None, now: float) -> Table:
    """One line per checkpoint.

    Args:
        saved: what to show.
        latest: name of the run's latest one.
        best: name of the run's best one.
        now: in seconds since 1970.
    """
    table = _table()
    for title, justify in (
        ("agent step", "right"),
        ("epoch", "right"),
        ("score", "right"),
        ("size", "right"),
        ("age", "right"),
        ("", "left"),
        ("folder", "left"),
    ):
        table.add_column(title, justify=justify, no_wrap=title != "folder", overflow="fold")  # pyright: ignore[reportArgumentType]  # literals
    for info in saved:
        table.add_row(
            f"{info.agent_step:,}",
            "-" if info.epoch is None else str(info.epoch),
            number(info.score),
            size(info.size),
            age(max(0.0, now - info.modified)),
            _marks(info, latest, best),
            info.name,
        )
    return table


def score_notes(saved: Sequence[CheckpointInfo]) -> list[Text]:
    """What the scores in a list of checkpoints are, where some come from evaluations."""
    from rich.text import Text

    measures = list(dict.fromkeys(info.scored_by for info in saved if info.score is not None))
    if measures in ([], ["reward"]):
        return []
    return [Text(f"scores: mean episode {' or '.join(map(_measure, measures))}", style=_LABEL)]


def _measure(scored_by: str) -> str:
    return "reward while training" if scored_by == "reward" else f"reward on {scored_by}"


def verification(results: Sequence[tuple[str, str | None]]) -> Table:
    """Name of a checkpoint, and what is wrong with it."""
    from rich.text import Text

    table = _table()
    table.add_column("checkpoint", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, problem in results:
        verdict = Text("good", style="green") if problem is None else Text("DAMAGED", style="bold red")
        table.add_row(name, verdict, problem or "")
    return table


def age(seconds: float) -> str:
    """`12s`, `3m`, `5h`, `2d`, `7w`."""
    for unit, length in (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length * (2 if unit in "dw" else 1):
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def size(number_of_bytes: int) -> str:
    """`512 B`, `6.9 MiB`."""
    value = float(number_of_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_LABEL)


def _natural_width(columns: Sequence[tuple[str, str, Sequence[Text | str]]]) -> int:
    return sum(max(len(title), *(len(value) for value in values), 0) + 2 for title, _, values in columns) - 2


def _condition(condition: str) -> Text:
    from rich.text import Text

    return Text(condition, style=CONDITION_STYLE[condition])


def _spark(values: Sequence[float]) -> Text:
    from rich.text import Text

    return Text(sparkline(values, _SPARKS), style="cyan")


def _share(run: RunSummary) -> str:
    return f"{min(1.0, run.agent_step / run.total_timesteps):.0%}" if run.total_timesteps else "-"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}"


def _reward(details: RunDetails) -> str:
    last = details.curve.last_tenth
    if last is None:
        return "no episode has ended yet"
    return f"{number(last)} over the last {LAST_SHARE:.0%} of the run, best epoch {number(details.best_reward)}"


def _evaluations(latest: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """The last score of each suite or environment that was evaluated."""
    found = [name for name in latest if name.startswith(SCORE_PREFIX) and name.endswith(SCORE_SUFFIX)]
    scores = [f"{number(latest[name])} on {name[len(SCORE_PREFIX) : -len(SCORE_SUFFIX)]}" for name in found]
    return [("evaluation", ", ".join(scores))] if scores else []


def _total_time(seconds: float | None) -> str:
    return "" if seconds is None else f", {duration(seconds)} in all"


def _origin(details: RunDetails) -> tuple[str, ...]:
    run = details.summary
    return (
        run.agent,
        run.environment,
        "" if details.seed is None else f"seed {details.seed}",
        "" if details.device is None else f"device {details.device}",
    )


def _saved(details: RunDetails) -> str:
    good = [info for info in details.checkpoints if info.problem is None]
    if not good:
        return "no checkpoint yet"
    text = f"{len(good)} checkpoint{'s' if len(good) != 1 else ''}, latest {good[-1].agent_step:,}"
    best = next((info for info in good if info.name == details.best), None)
    return text if best is None else f"{text}, best {best.agent_step:,} ({best.scored_by} {number(best.score)})"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _marks(info: CheckpointInfo, latest: str | None, best: str | None) -> Text:
    from rich.text import Text

    if info.problem is not None:
        return Text(info.problem, style="red")
    words = [word for word, name in (("latest", latest), ("best", best)) if name == info.name]
    return Text(" ".join(words), style="green")


def _facts(facts: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in facts:
        table.add_row(Text(label, style=_LABEL), Text(value))
    return table


def _chart(curves: Sequence[tuple[str, Curve]], width: int, glyphs: Glyphs) -> list[Text]:
    return terminal_chart(
        curves, width=min(width, _MAX_CHART), height=_CHART_ROWS, x_title="agent steps", glyphs=glyphs
    )
