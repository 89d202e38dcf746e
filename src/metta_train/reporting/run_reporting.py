"""Everything that hears of one run, put together: metrics file, terminal, wandb and TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.reporting.config import WandbConfig, resolved_mode
from metta_train.reporting.console import LiveConsole, console_reporter, stdout_console
from metta_train.reporting.dashboard import DASHBOARD_ROWS
from metta_train.reporting.jsonl import JsonlReporter
from metta_train.reporting.reporter import Reporter, Reporters
from metta_train.reporting.tensorboard import FOLDER as TENSORBOARD_FOLDER
from metta_train.reporting.tensorboard import TensorBoardReporter
from metta_train.reporting.wandb_reporter import WandbReporter

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class RunReporting:
    """What a training reports to.

    Attributes:
        reporters: to be started, told and finished by the training.
        wandb: one of them; None without wandb.
        redrawn_rows: of the terminal, which a dashboard draws again and again; 0 without one.
    """

    reporters: Reporters
    wandb: WandbReporter | None
    redrawn_rows: int = 0

    @property
    def wandb_run_id(self) -> str | None:
        """Belongs into every checkpoint; None without wandb. Ask again each time: an outage can change it."""
        return None if self.wandb is None else self.wandb.run_id


def build_reporting(
    progress: Console,
    metrics_file: Path,
    wandb: WandbConfig,
    *,
    wandb_run_id: str | None = None,
    upload_interval: int = 0,
    is_best: Callable[[Path], bool] = lambda _: False,
    tensorboard: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> RunReporting:
    """The reporters of one run, not yet started.

    Args:
        progress: the console of the run's logging (`stderr_console`), which the dashboard shares.
        metrics_file: appended to; always written.
        wandb: where and whether to report to wandb.
        wandb_run_id: of the checkpoint that the run goes on from.
        upload_interval: epochs between uploads of checkpoints to wandb; 0 = never.
        is_best: whether a checkpoint is the best of its run.
        tensorboard: also write event files, beside the metrics file.
        environ: environment variables.
    """
    reporters: list[Reporter] = [JsonlReporter(metrics_file)]
    mode = resolved_mode(wandb.mode, environ, Path.home())
    wandb_reporter = None
    if mode != "off":
        wandb_reporter = WandbReporter(
            wandb, mode=mode, run_id=wandb_run_id, upload_interval=upload_interval, is_best=is_best
        )
        reporters.append(wandb_reporter)
    if tensorboard:
        reporters.append(TensorBoardReporter(metrics_file.parent / TENSORBOARD_FOLDER))
    # Last: its summary is the last thing on the terminal, after any warning of the others.
    console = console_reporter(progress, stdout_console(), environ)
    reporters.append(console)
    rows = DASHBOARD_ROWS if isinstance(console, LiveConsole) else 0
    return RunReporting(Reporters(reporters), wandb_reporter, rows)
