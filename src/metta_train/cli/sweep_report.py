"""How a sweep ended: `sweep.csv`, a line per setting, the jobs that failed, and the exit code."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.cli.exit_codes import CRASH, DONE, INTERRUPTED, PREEMPTED
from metta_train.cli.sweep import Sweep
from metta_train.cli.sweep_signals import is_alive
from metta_train.reporting.curves import last_epochs
from metta_train.reporting.redaction import redact_argv
from metta_train.reporting.results import print_results, results_console, shown_path
from metta_train.reporting.run_view import duration, number
from metta_train.reporting.statistics import Estimate
from metta_train.sweeps.job_records import JobRecord
from metta_train.sweeps.job_results import SettingResult, settings_of, write_csv
from metta_train.sweeps.objective import objective_of, why_none
from metta_train.training.run_paths import RunPaths

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

KILLED = "its process ended without a word (killed, perhaps for lack of memory)"
NOT_STARTED = "not started"
LOWER = {"maximize": "", "minimize": " (lower is better)"}
WIDE = 110  # columns from which on the mean has its interval too
_LABEL = "dim"
_POLL = 0.5  # seconds


def finish_sweep(sweep: Sweep, arguments: Sequence[str], launcher_error: str | None) -> int:
    """Print and write what the jobs came to.

    Args:
        sweep: after its last job.
        arguments: of the command line, for the hint how to go on.
        launcher_error: why the launcher gave up; None when it did not.

    Returns:
        The exit code.
    """
    jobs = _settled(sweep, launcher_error)
    sweep.records.forget_stop(sweep.start)
    everything = tuple(_measured(sweep, job) for job in sweep.records.read())
    file = write_csv(sweep.folder, everything) if everything else None
    console = results_console()
    print_results(console, report(sweep, everything, jobs, console.width))
    if file is not None:
        print(shown_path(file))
    if any(job.objective is not None for job in everything):
        _suggest(sweep)
    again = [job for job in jobs if job.state != "done"]
    if again:
        words = [word for word in redact_argv(arguments) if not word.startswith("run=")]
        name = [] if sweep.planned is not None and "run" not in sweep.common else [f"run={sweep.name}"]
        print(f"to run what is missing: {shlex.join(['metta-train', *words, *name])}", file=sys.stderr)
    codes = [job.code for job in jobs if job.code != DONE]
    if launcher_error is not None and not codes:
        print(launcher_error, file=sys.stderr)
        return CRASH
    for code in (INTERRUPTED, PREEMPTED):
        if code in codes:
            return code
    return codes[0] if codes else DONE


def _suggest(sweep: Sweep) -> None:
    """What to type next; jobs of several names of `run` have no pattern in common."""
    if "run" not in sweep.common:
        return
    usual = Path(os.environ.get("DATA_DIR") or "train_dir").resolve()  # where the other commands look
    place = [] if sweep.data_dir == usual else ["--data-dir", str(sweep.data_dir)]
    for purpose, program in (("draw its curves", ["metta-runs", "plot"]), ("compare its policies", ["metta-eval"])):
        print(f"to {purpose}: {shlex.join([*program, f'{sweep.name}/*', *place])}", file=sys.stderr)


def report(
    sweep: Sweep, everything: Sequence[JobRecord], jobs: Sequence[JobRecord], width: int
) -> list[RenderableType]:
    """Everything for the terminal.

    Args:
        sweep: after its last job.
        everything: all jobs of the sweep, also those of earlier starts.
        jobs: those of this start.
        width: columns.
    """
    from rich.text import Text

    skipped = sum(job.skipped for job in jobs)
    counts = [
        (sum(job.state == "done" for job in jobs), f"done{f' ({skipped} before, skipped)' if skipped else ''}"),
        (sum(job.state == "failed" for job in jobs), "failed"),
        (sum(job.state == "interrupted" for job in jobs), "stopped"),
    ]
    told = ", ".join(f"{count} {word}" for count, word in counts if count)
    parts: list[RenderableType] = [
        Text.assemble((sweep.name, "bold"), f": {len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}, {told}")
    ]
    metric = sweep.metric
    # A setting of an earlier start of which nothing came, a mistyped value for example, is in sweep.csv alone.
    settings = [
        setting
        for setting in settings_of(everything, sweep.goal)
        if setting.done or any(job.start == sweep.start for job in setting.jobs)
    ]
    if settings:
        parts += [Text(), Text(f"{metric}, mean over the last tenth of each run{LOWER[sweep.goal]}", style=_LABEL)]
        parts.append(results_table(settings, width))
        unmeasured = [job for job in everything if job.state == "done" and job.objective is None]
        if unmeasured:
            epochs = last_epochs(RunPaths.locate(sweep.data_dir, unmeasured[0].run).metrics)
            why = why_none({name for epoch in epochs for name in epoch}, metric)
            parts.append(Text(f"{len(unmeasured)} of {len(everything)} without a value: {why}", style=_LABEL))
    missing = [job for job in jobs if job.state != "done"]
    if missing:
        parts += [Text(), failure_table(missing)]
    return parts


def _measured(sweep: Sweep, job: JobRecord) -> JobRecord:
    """A job of an earlier start may have been measured by another metric."""
    metric = sweep.metric
    if job.metric == metric or job.state != "done":
        return job
    measured = objective_of(RunPaths.locate(sweep.data_dir, job.run).metrics, metric)
    return replace(job, objective=measured, metric=metric)


def results_table(settings: Sequence[SettingResult], width: int) -> Table:
    """One line per setting: how many seeds are done, mean and IQM with 95 % bootstrap intervals."""
    table = _table()
    wide = width >= WIDE
    table.add_column("setting", overflow="fold")
    table.add_column("seeds", justify="right", no_wrap=True)
    for title in ("mean", "IQM"):
        table.add_column(title, justify="right", no_wrap=True)
        if title == "IQM" or wide:
            table.add_column("95 % interval", no_wrap=True, style=_LABEL)
    table.add_column("time", justify="right", no_wrap=True)
    for setting in settings:
        score = setting.score
        done = str(setting.done) if setting.done == len(setting.jobs) else f"{setting.done} of {len(setting.jobs)}"
        cells = [setting.label or "all", done]
        for estimate, shows_interval in ((score and score.mean, wide), (score and score.iqm, True)):
            cells.append(number(estimate.value if estimate else None))
            if shows_interval:
                cells.append(_interval(estimate, 0 if score is None else score.count))
        cells.append("-" if setting.seconds is None else duration(setting.seconds))
        table.add_row(*cells)
    return table


def failure_table(jobs: Sequence[JobRecord]) -> Table:
    """Jobs that did not finish, with the reason."""
    table = _table()
    table.add_column("not finished", overflow="fold")
    table.add_column("code", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for job in jobs:
        table.add_row(job.run, str(job.code), job.reason or "-")
    return table


def _settled(sweep: Sweep, launcher_error: str | None) -> tuple[JobRecord, ...]:
    """The records of this start, once nothing changes them any more; jobs that left none get one."""
    jobs = sweep.records.of_start(sweep.start)
    while any(_still_runs(job) for job in jobs):
        time.sleep(_POLL)
        jobs = sweep.records.of_start(sweep.start)
    for job in jobs:
        if job.state == "running":
            sweep.records.write(replace(job, state="failed", code=CRASH, reason=KILLED))
    known = {job.run for job in jobs}
    for position, run in enumerate(sweep.planned or ()):
        if run not in known:
            reason = NOT_STARTED if launcher_error is None else f"{NOT_STARTED}: {launcher_error}"
            sweep.records.write(JobRecord(run, sweep.start, position, "failed", code=CRASH, reason=reason))
    return sweep.records.of_start(sweep.start)


def _still_runs(job: JobRecord) -> bool:
    here = job.host == socket.gethostname() and job.pid != os.getpid()
    return job.state == "running" and here and is_alive(job.pid)


def _interval(estimate: Estimate | None, count: int) -> str:
    return "-" if estimate is None or count < 2 else f"{number(estimate.low)} to {number(estimate.high)}"


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_LABEL)
