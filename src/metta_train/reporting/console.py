"""The terminal: a live dashboard where someone watches, one plain line per interval elsewhere.

Progress goes to stderr. The summary at the end, with the next commands, goes to stdout.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from metta_train.reporting.dashboard import LABEL, dashboard
from metta_train.reporting.reporter import Reporter, RunHeader, RunOutcome
from metta_train.reporting.results import shown_path
from metta_train.reporting.run_view import RunView, SavedCheckpoint, duration, number
from metta_train.specs.records import EpochRecord, EvaluationScores

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

_REFRESHES_PER_SECOND = 2  # calm to look at, and rendering costs the training little
_PLAIN_INTERVAL = 10.0  # seconds between lines where nobody watches
_MIN_LIVE_WIDTH = 60
_BATCH_VARIABLES = ("CI", "SLURM_JOB_ID", "PBS_JOBID", "KUBERNETES_SERVICE_HOST")

_STATE_STYLE = {"done": "green", "interrupted": "yellow", "failed": "red"}


def stderr_console() -> Console:
    """The console of everything that is shown during a run; the logging handlers must use the same one."""
    return _console(stderr=True)


def stdout_console() -> Console:
    """The console of results."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    class RunConsole(Console):
        def on_broken_pipe(self) -> None:
            # Rich's own answer is to exit; a training outlives `| tee` and whoever else has read its terminal.
            raise BrokenPipeError(errno.EPIPE, "nobody reads it any more")

    return RunConsole(stderr=stderr, highlight=False, force_jupyter=False)


def console_reporter(progress: Console, results: Console, environ: Mapping[str, str]) -> Reporter:
    """The dashboard if `progress` is a terminal that someone watches, else plain lines."""
    live = (
        progress.is_terminal
        and not progress.is_dumb_terminal
        and progress.width >= _MIN_LIVE_WIDTH
        and progress.encoding.startswith("utf")
        and not any(environ.get(name) for name in _BATCH_VARIABLES)
    )
    return LiveConsole(progress, results) if live else PlainConsole(progress, results)


class PlainConsole(Reporter):
    """One line per interval, and one for the first and the last epoch; for files, batch systems and pipes."""

    name = "console"

    def __init__(
        self,
        progress: Console,
        results: Console,
        *,
        interval: float = _PLAIN_INTERVAL,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._progress = progress
        self._results = results
        self._interval = interval
        self._clock = clock
        self._view: RunView | None = None
        self._next_line = 0.0
        self._shown_epoch = 0

    def start(self, header: RunHeader) -> None:
        self._view = RunView(header)
        self._shown_epoch = header.start_epoch
        self._next_line = self._clock()
        for line in _start_lines(header):
            self._write(line)

    def record(self, record: EpochRecord) -> None:
        assert self._view is not None, "record() before start()"
        self._view.add(record)
        scores = record.evaluation
        if scores is not None and scores.epoch == record.epoch:
            self._write(evaluation_line(scores))
        if self._clock() >= self._next_line:
            self._next_line = self._clock() + self._interval
            self._write_epoch(self._view)

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        assert self._view is not None, "checkpoint_saved() before start()"
        self._view.checkpoint = SavedCheckpoint(path, epoch, agent_step)

    def finish(self, outcome: RunOutcome) -> None:
        if self._view is not None:
            if self._view.epoch != self._shown_epoch:
                self._write_epoch(self._view)
            _print_summary(self._results, self._view, outcome)

    def _write_epoch(self, view: RunView) -> None:
        self._shown_epoch = view.epoch
        self._write(plain_line(view))

    def _write(self, line: str) -> None:
        self._progress.print(line, soft_wrap=True, markup=False)


class LiveConsole(Reporter):
    """A dashboard that stays in place; log lines from the same console appear above it."""

    name = "console"

    def __init__(self, progress: Console, results: Console, *, clock: Callable[[], float] = monotonic) -> None:
        self._progress = progress
        self._results = results
        self._clock = clock
        self._lock = threading.Lock()  # the dashboard is drawn by a thread of rich
        self._view: RunView | None = None
        self._started = 0.0
        self._saved_at = 0.0
        self._live: Live | None = None

    def start(self, header: RunHeader) -> None:
        from rich.live import Live

        self._view = RunView(header)
        self._started = self._clock()
        for line in header.plan:
            self._progress.print(line, style=LABEL, markup=False)
        self._live = Live(
            get_renderable=self._draw,
            console=self._progress,
            refresh_per_second=_REFRESHES_PER_SECOND,
            vertical_overflow="crop",
        )
        self._live.start(refresh=True)

    def record(self, record: EpochRecord) -> None:
        assert self._view is not None, "record() before start()"
        with self._lock:
            self._view.add(record)

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        assert self._view is not None, "checkpoint_saved() before start()"
        with self._lock:
            self._view.checkpoint = SavedCheckpoint(path, epoch, agent_step)
            self._saved_at = self._clock()

    def finish(self, outcome: RunOutcome) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._view is not None:
            _print_summary(self._results, self._view, outcome)

    def _draw(self) -> RenderableType:
        assert self._view is not None, "drawn before start()"
        now = self._clock()
        with self._lock:
            return dashboard(
                self._view, self._progress.width, elapsed=now - self._started, since_checkpoint=now - self._saved_at
            )


def plain_line(view: RunView) -> str:
    """`epoch 12 | step 98,304 of 1,000,000 (9.8 %) | 12,345 steps/s | ...`; ASCII only."""
    # The jobs of a sweep may print at the same time.
    job = f"{view.header.run} " if "/" in view.header.run else ""
    parts = [
        f"{job}epoch {view.epoch}",
        f"step {view.agent_step:,} of {view.header.total_timesteps:,} ({view.share_done:.1%})",
    ]
    if view.steps_per_second is not None and view.seconds_left is not None:
        parts += [f"{view.steps_per_second:,.0f} steps/s", f"{duration(view.seconds_left)} left"]
    parts.append(f"reward {number(view.reward)}")
    if view.latest is not None:
        update = view.latest.update
        parts += [f"entropy {number(update.entropy)}", f"KL {number(update.approx_kl)}"]
    shares = view.time_shares
    if shares is not None:
        parts.append(
            f"env {shares.environment:.0%} inference {shares.inference:.0%} "
            f"train {shares.training:.0%} other {shares.other:.0%}"
        )
    return " | ".join(parts)


def evaluation_line(scores: EvaluationScores) -> str:
    """`evaluation at epoch 200: easy 0.31 (0.29 to 0.35), ...`: IQM and interval of each environment; ASCII only."""
    told = [
        f"{of_one.environment} {number(of_one.summary.iqm.value)} "
        f"({number(of_one.summary.iqm.low)} to {number(of_one.summary.iqm.high)})"
        for of_one in scores.environments
    ]
    each = scores.episodes // max(1, len(scores.environments))
    count = "1 episode" if each == 1 else f"{each} episodes"
    many = " each" if len(scores.environments) > 1 else ""
    return (
        f"evaluation at epoch {scores.epoch}: score {number(scores.score)} | IQM, 95 % interval, {count}{many}: "
        f"{', '.join(told)}"
    )


def _start_lines(header: RunHeader) -> list[str]:
    first = (
        f"{header.run}: {header.agent} on {header.environment}, {header.total_parameters:,} parameters, {header.device}"
    )
    resumed = f"continuing at epoch {header.start_epoch}, step {header.start_agent_step:,}"
    return [first, *header.plan, *([resumed] if header.start_agent_step else [])]


def _print_summary(console: Console, view: RunView, outcome: RunOutcome) -> None:
    """State, totals and the next commands; lines are never wrapped, so that commands can be copied or parsed."""
    from rich.text import Text

    trained = outcome.agent_step - view.header.start_agent_step
    rate = f"{trained / outcome.elapsed:,.0f} steps/s" if outcome.elapsed > 0.0 else "no time at all"
    lines = [
        Text.assemble(
            (outcome.state, f"bold {_STATE_STYLE[outcome.state]}"),
            f": {view.header.run} at {outcome.agent_step:,} agent steps, epoch {outcome.epoch}, "
            f"after {duration(outcome.elapsed)} ({rate})",
        )
    ]
    if outcome.message:
        lines.append(Text(outcome.message))
    if view.reward is not None:
        mean = f"{number(view.reward)} over the last {view.num_recent_episodes} episodes"
        lines.append(_fact("reward", f"{mean}, best epoch {number(view.best_reward)}"))
    if view.evaluation is not None and view.best_evaluation is not None:
        scores, best = view.evaluation, view.best_evaluation
        last = f"{number(scores.score)} at epoch {scores.epoch}"
        lines.append(_fact("evaluation", f"{last}, best {number(best.score)} at epoch {best.epoch}"))
    lines.append(_fact("run folder", str(shown_path(view.header.folder))))
    if outcome.checkpoint is not None:
        lines.append(_fact("checkpoint", str(shown_path(outcome.checkpoint))))
    for step in outcome.next_commands:
        lines += [Text(f"to {step.purpose}:", style=LABEL), Text(f"  {step.command}")]
    for line in lines:
        console.print(line, soft_wrap=True)


def _fact(label: str, value: str) -> Text:
    from rich.text import Text

    return Text.assemble((f"{label:<12}", LABEL), value)
