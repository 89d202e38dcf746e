"""The picture of a run on a terminal that somebody watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metta_train.reporting.run_view import RunView, duration, number, sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

DASHBOARD_ROWS = 15  # which rich goes up before it draws the dashboard again
_MAX_WIDTH = 116  # a wider dashboard tears labels and values apart
_WIDE = 100  # from here on there is room for three columns

LABEL = "dim"
_ACCENT = "cyan"


def dashboard(view: RunView, width: int, *, elapsed: float, since_checkpoint: float = 0.0) -> RenderableType:
    """The picture of a run, for a terminal of `width` columns; wider than 116 it stays 116 wide.

    Args:
        view: what to show.
        width: columns of the terminal.
        elapsed: seconds since this process began to train.
        since_checkpoint: seconds since the last checkpoint.
    """
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    width = min(width, _MAX_WIDTH)
    inner = width - 6  # two borders and two spaces on either side
    blocks = [_learning(view), _losses(view), _shares(view, bar_width=14 if width >= _WIDE else 10)]
    columns = [blocks] if width >= _WIDE else [blocks[1:]]
    header = view.header
    parts: list[RenderableType] = [
        _progress_bar(view, inner),
        _counters(view, elapsed, inner),
        Text(),
        _reward(view, inner),
        *_evaluation(view, inner),
        Text(),
        *(_side_by_side(row, inner) for row in columns),
        Text(),
        _checkpoint(view, since_checkpoint),
    ]
    return Panel(
        Group(*parts),
        box=box.ROUNDED,
        width=width,
        padding=(1, 2),
        border_style=LABEL,
        title=Text.assemble((header.run, f"bold {_ACCENT}"), (f" · epoch {view.epoch}", LABEL)),
        title_align="left",
        subtitle=Text(f"{header.agent} · {header.environment} · {header.device}", style=LABEL),
        subtitle_align="right",
    )


def _progress_bar(view: RunView, width: int) -> Text:
    from rich.text import Text

    label = f"{view.share_done:7.1%}"
    cells = width - len(label) - 1
    filled = int(view.share_done * cells)
    return Text.assemble(("━" * filled, _ACCENT), ("─" * (cells - filled), LABEL), " ", (label, "bold"))


def _counters(view: RunView, elapsed: float, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    rate = "-" if view.steps_per_second is None else f"{view.steps_per_second:,.0f}"
    left = "-" if view.seconds_left is None else duration(view.seconds_left)
    cells = [
        ("left", _count(view.agent_step), f" of {_count(view.header.total_timesteps)} steps"),
        ("center", rate, " steps/s"),
        ("center", duration(elapsed), " elapsed"),
        ("right", left, " left"),
    ]
    if sum(len(value) + len(unit) + 2 for _, value, unit in cells) > width:
        del cells[2]  # what is left tells more than what is over
    row = Table.grid(expand=True)
    for justify, _, _ in cells:
        row.add_column(justify=justify, no_wrap=True)  # pyright: ignore[reportArgumentType]  # a literal per cell
    row.add_row(*(Text.assemble((value, "bold"), (unit, LABEL)) for _, value, unit in cells))
    return row


def _count(steps: int) -> str:
    """Exact below a hundred million, then in millions: a longer number does not fit beside the others."""
    return f"{steps:,}" if steps < 10**8 else f"{steps / 1e6:,.0f} M"


def _reward(view: RunView, width: int) -> Text:
    from rich.text import Text

    label = ("reward      ", LABEL)
    if view.reward is None:
        return Text.assemble(label, ("no episode has ended yet", "dim italic"))
    value, best = f"{number(view.reward):<10}", f"   best {number(view.best_reward)}"
    spark = sparkline(view.rewards, min(60, width - len(label[0]) - len(value) - len(best)))
    return Text.assemble(label, (value, "bold"), (spark, _ACCENT), (best, LABEL))


def _evaluation(view: RunView, width: int) -> list[Text]:
    """One line once there is a score; environments that do not fit are left out."""
    from rich.text import Text

    scores, best = view.evaluation, view.best_evaluation
    if scores is None or best is None:
        return []
    line = Text.assemble(("evaluation  ", LABEL), (f"{number(scores.score):<10}", "bold"), f" epoch {scores.epoch}")
    line.append(f"   best {number(best.score)} at epoch {best.epoch}", style=LABEL)
    if len(scores.environments) > 1:
        for of_one in scores.environments:
            told = f"   {of_one.environment} {number(of_one.summary.mean.value)}"
            if len(line) + len(told) <= width:
                line.append(told, style=LABEL)
    return [line]


def _learning(view: RunView) -> Table:
    latest = view.latest
    return _table(
        [
            ("learning rate", number(latest.hyperparameters.learning_rate if latest else None)),
            ("explained variance", number(latest.update.explained_variance if latest else None)),
            ("clip fraction", number(latest.update.clipfrac if latest else None)),
            ("gradient norm", number(latest.update.grad_norm if latest else None)),
        ]
    )


def _losses(view: RunView) -> Table:
    update = view.latest.update if view.latest else None
    return _table(
        [
            ("policy loss", number(update.policy_loss if update else None)),
            ("value loss", number(update.value_loss if update else None)),
            ("entropy", number(update.entropy if update else None)),
            ("KL", number(update.approx_kl if update else None)),
        ]
    )


def _shares(view: RunView, bar_width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    shares = view.time_shares
    table = Table.grid(padding=(0, 1))
    rows = [
        ("environment", shares.environment if shares else 0.0),
        ("inference", shares.inference if shares else 0.0),
        ("training", shares.training if shares else 0.0),
        ("other", shares.other if shares else 0.0),
    ]
    for label, share in rows:
        filled = round(share * bar_width)
        bar = Text.assemble(("━" * filled, _ACCENT), ("─" * (bar_width - filled), LABEL))
        table.add_row(Text(label, style=LABEL), bar, Text(f"{share:4.0%}" if shares else "   -"))
    return table


def _checkpoint(view: RunView, since: float) -> Text:
    from rich.text import Text

    label = ("checkpoint  ", LABEL)
    saved = view.checkpoint
    if saved is None:
        return Text.assemble(label, ("none yet", "dim italic"))
    return Text.assemble(label, f"{saved.path.name}  ", (f"epoch {saved.epoch}, {duration(since)} ago", LABEL))


def _table(rows: list[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", min_width=8, no_wrap=True)
    for label, value in rows:
        table.add_row(Text(label, style=LABEL), Text(value))
    return table


def _side_by_side(blocks: list[Table], width: int) -> Table:
    from rich.table import Table

    row = Table.grid(expand=True)
    row.width = width
    for index in range(len(blocks)):
        row.add_column(justify="left" if index < len(blocks) - 1 else "right")
    row.add_row(*blocks)
    return row
