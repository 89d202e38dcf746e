"""Everything that hears of one run, put together: metrics file, terminal, wandb and logging."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metta_train.reporting.config import WandbConfig, resolved_mode
from metta_train.reporting.console import console_reporter, stderr_console, stdout_console
from metta_train.reporting.jsonl import JsonlReporter
from metta_train.reporting.reporter import Reporter, Reporters
from metta_train.reporting.run_logging import run_logging
from metta_train.reporting.wandb_reporter import WandbReporter


@dataclass(frozen=True, slots=True)
class RunReporting:
    """What a training reports to.

    Attributes:
        reporters: to be started, told and finished by the training.
        wandb: one of them; None without wandb.
    """

    reporters: Reporters
    wandb: WandbReporter | None

    @property
    def wandb_run_id(self) -> str | None:
        """Belongs into every checkpoint; None without wandb. Ask again each time: an outage can change it."""
        return None if self.wandb is None else self.wandb.run_id


@contextmanager
def run_reporting(
    metrics_file: Path,
    log_file: Path,
    wandb: WandbConfig,
    *,
    wandb_run_id: str | None = None,
    sweep: str | None = None,
    upload_interval: int = 0,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[RunReporting]:
    """Set up logging for the block and build the reporters, which share its terminal.

    Args:
        metrics_file: appended to; always written.
        log_file: appended to.
        wandb: where and whether to report to wandb.
        wandb_run_id: of the checkpoint that the run goes on from.
        sweep: name of the multirun that this run is a job of; groups its wandb runs.
        upload_interval: epochs between uploads of checkpoints to wandb; 0 = never.
        environ: environment variables.
    """
    progress = stderr_console()
    with run_logging(log_file, progress):
        reporters: list[Reporter] = [JsonlReporter(metrics_file)]
        mode = resolved_mode(wandb.mode, environ, Path.home())
        wandb_reporter = None
        if mode != "off":
            wandb_reporter = WandbReporter(
                wandb, mode=mode, run_id=wandb_run_id, group=sweep, upload_interval=upload_interval
            )
            reporters.append(wandb_reporter)
        # Last: its summary is the last thing on the terminal, after any warning of the others.
        reporters.append(console_reporter(progress, stdout_console(), environ))
        yield RunReporting(Reporters(reporters), wandb_reporter)
