"""What `metta-eval` found: scores with intervals and the environment's own statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metta_train.reporting.run_view import duration, number
from metta_train.reporting.statistics import summary
from metta_train.specs.records import EpisodeRecord, Estimate, ScoreSummary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_LABEL = "dim"
_WIDE = 110  # columns from which mean and median have their interval too
_WIDE_SEVERAL = 140  # the same where environments have a column
_BESIDE_POLICY = 67  # columns of everything but the policy's name, where one environment is told of
_NARROWEST = 7  # columns of a statistic


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One policy on one environment.

    Attributes:
        environment: name of the environment, or its name in a suite.
        policy: who played, e.g. "mine:4608" or "random".
        seed: of the set of episodes.
        episodes: in order.
        seconds: wall time.
    """

    environment: str
    policy: str
    seed: int
    episodes: tuple[EpisodeRecord, ...]
    seconds: float

    @property
    def score(self) -> ScoreSummary:
        """Of the episode rewards, each the mean over the agents."""
        return summary([episode.reward for episode in self.episodes])

    @property
    def statistics(self) -> Mapping[str, float]:
        """Means over all episodes, by name. MettaGrid tells of what happened: an absent statistic is 0."""
        names = {name for episode in self.episodes for name in episode.stats}
        count = len(self.episodes)
        return {name: sum(e.stats.get(name, 0.0) for e in self.episodes) / count for name in sorted(names)}

    @property
    def mean_length(self) -> float:
        """Steps per episode."""
        return sum(episode.length for episode in self.episodes) / len(self.episodes)

    def plain(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {
            "environment": self.environment,
            "policy": self.policy,
            "seed": self.seed,
            "seconds": self.seconds,
            "score": self.score,
            "mean_length": self.mean_length,
            "statistics": self.statistics,
            "episodes": [
                {"reward": episode.reward, "length": episode.length, "truncated": episode.truncated}
                for episode in self.episodes
            ],
        }


def score_table(evaluations: Sequence[Evaluation], width: int) -> Table:
    """One line per evaluation: mean, median and IQM, where there is room with their 95 % intervals."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_LABEL)
    several = len({evaluation.environment for evaluation in evaluations}) > 1
    wide = width >= (_WIDE_SEVERAL if several else _WIDE)
    if several:
        table.add_column("environment", overflow="fold")
    table.add_column("policy", overflow="fold")
    for title in ("mean", "median", "IQM"):
        table.add_column(title, justify="right", no_wrap=True)
        if title == "IQM" or wide:
            table.add_column("95 % interval", justify="left", no_wrap=True, style=_LABEL)
    longest = max(len(evaluation.policy) for evaluation in evaluations)
    ends = wide or (not several and longest + _BESIDE_POLICY <= width)
    for title in ("lowest", "highest", "length") if ends else ("length",):
        table.add_column(title, justify="right", no_wrap=True)
    for evaluation in evaluations:
        score = evaluation.score
        cells = [evaluation.environment, evaluation.policy] if several else [evaluation.policy]
        for estimate in (score.mean, score.median, score.iqm):
            cells.append(number(estimate.value))
            if estimate is score.iqm or wide:
                cells.append(_interval(estimate))
        cells += [number(score.smallest), number(score.largest)] if ends else []
        cells.append(f"{evaluation.mean_length:,.0f}")
        table.add_row(*cells)
    for policy, score in _overall(evaluations).items() if several else ():
        table.add_row("all of them", policy, number(score), style="bold")
    return table


def _overall(evaluations: Sequence[Evaluation]) -> Mapping[str, float]:
    """Mean over the environments of the mean score, for every policy that played on all of them."""
    environments = {evaluation.environment for evaluation in evaluations}
    means: dict[str, list[float]] = {}
    for evaluation in evaluations:
        means.setdefault(evaluation.policy, []).append(evaluation.score.mean.value)
    return {policy: sum(of_it) / len(of_it) for policy, of_it in means.items() if len(of_it) == len(environments)}


def statistics_table(evaluations: Sequence[Evaluation], width: int) -> list[RenderableType]:
    """The environment's own statistics, means per episode side by side; those that are 0 for everybody are counted."""
    from rich.table import Table
    from rich.text import Text

    told = [evaluation.statistics for evaluation in evaluations]
    names = sorted({name for of_one in told for name in of_one})
    shown = [name for name in names if any(of_one.get(name, 0.0) != 0.0 for of_one in told)]
    if not names:
        return []
    room = width - max(len(name) for name in ["mean per episode", *shown])
    if room < len(evaluations) * (_NARROWEST + 2):
        return [Text(), Text(f"{len(names)} statistics of {len(evaluations)} policies: --json has them", style=_LABEL)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_LABEL)
    table.add_column("mean per episode", overflow="fold")
    for evaluation in evaluations:
        table.add_column(evaluation.policy, justify="right", overflow="fold")
    for name in shown:
        table.add_row(name, *(number(of_one[name]) if name in of_one else "-" for of_one in told))
    parts: list[RenderableType] = [Text(), table]
    if len(shown) < len(names):
        parts.append(Text(f"and {len(names) - len(shown)} that are 0 (--json has all)", style=_LABEL))
    return parts


def report(evaluations: Sequence[Evaluation], how: str, width: int, suite: str | None = None) -> list[RenderableType]:
    """Everything for the terminal.

    Args:
        evaluations: environment by environment.
        how: how actions were chosen, e.g. "actions sampled".
        width: columns.
        suite: name of the set of environments; None for a single one.
    """
    from rich.text import Text

    environments = list(dict.fromkeys(evaluation.environment for evaluation in evaluations))
    first = evaluations[0]
    seconds = sum(evaluation.seconds for evaluation in evaluations)
    parts: list[RenderableType] = [
        Text.assemble(
            *([] if suite is None else ["suite ", (suite, "bold"), ": "]),
            (", ".join(environments), "" if suite else "bold"),
            f": reward per episode and agent, {_count(len(first.episodes))}{' each' if len(evaluations) > 1 else ''}, "
            f"seed {first.seed}, {how}, {duration(seconds)}",
        ),
        Text(),
        score_table(evaluations, width),
    ]
    for environment in environments:
        of_it = [evaluation for evaluation in evaluations if evaluation.environment == environment]
        table = statistics_table(of_it, width)
        if table and len(environments) > 1:
            table.insert(1, Text(environment, style="bold"))
        parts += table
    return parts


def _count(episodes: int) -> str:
    return "1 episode" if episodes == 1 else f"{episodes} episodes"


def _interval(estimate: Estimate) -> str:
    return f"{number(estimate.low)} to {number(estimate.high)}"
