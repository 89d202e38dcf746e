"""One job of `metta-train -m`: what Hydra's launchers call, in this process or in one of theirs."""

from __future__ import annotations

import math
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from metta_train.cli.compose import Composition, located, run_config
from metta_train.cli.config_source import ConfigSource
from metta_train.cli.exit_codes import DONE, INTERRUPTED, PREEMPTED, exit_code_of, is_explained
from metta_train.cli.search_path import origin_of
from metta_train.cli.sweep import RUN, Sweep
from metta_train.cli.sweep_signals import ignore_interrupts
from metta_train.reporting.curves import last_epochs
from metta_train.reporting.metric_names import TOTAL_TIME
from metta_train.reporting.redaction import redact_config, redact_message
from metta_train.run_config import RunConfig
from metta_train.sweeps.devices import keep_one_device
from metta_train.sweeps.job_records import JobRecord
from metta_train.sweeps.objective import objective_of
from metta_train.training.config_changes import config_changes
from metta_train.training.run_paths import RunPaths
from metta_train.training.run_status import read_status
from metta_train.training.saved_config import read_config

PROGRAM = "metta-train"
NO_OBJECTIVE = math.nan  # what sweepers take for a failed job
# How a run is told of and where it lies: a finished run stays finished when these change.
_NOT_TRAINED = ("wandb", "data_dir", "restart", "objective")

Train = Callable[[RunConfig, Sequence[str]], int]  # configuration, command -> exit code


@dataclass(frozen=True, slots=True)
class SweepJob:
    """Trains the run of one job and leaves a record of it.

    Attributes:
        sweep: of the job.
        source: of its configuration.
        train: a function of a module, which the processes of a launcher can import.
    """

    sweep: Sweep
    source: ConfigSource
    train: Train

    def __call__(self, tree: DictConfig) -> float:
        """Train one job.

        Returns:
            The objective, for sweepers that search; NaN for a job that failed, so that the others go on.
        """
        settings = HydraConfig.get()
        if not self.sweep.in_process:
            ignore_interrupts()
            if tree.device in ("auto", "cuda"):
                keep_one_device(os.environ, settings.job.num)
        task: list[str] = list(settings.overrides.task)
        overrides = [override for override in task if not override.startswith(f"{RUN}=")]
        record = JobRecord(
            run=self.sweep.run_of(task),
            start=self.sweep.start,
            number=settings.job.num,
            state="running",
            values=self.sweep.values_of(task),
            metric=self.sweep.metric,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        records = self.sweep.records
        if records.asked_to_stop(self.sweep.start):
            records.write(replace(record, state="interrupted", code=PREEMPTED, reason="not started: the sweep stopped"))
            return NO_OBJECTIVE
        records.write(record)
        prefix = f"job {record.number} ({' '.join(overrides)}): "
        try:
            config = run_config(self._composition(tree, settings.runtime.choices, record.run))
            located(config.data_dir, config.run)
            if is_finished(config):
                print(redact_message(f"{prefix}done before, skipped", overrides), file=sys.stderr)
                record = replace(record, skipped=True)
            else:
                with redirect_stdout(sys.stderr):  # results are the sweep's to print
                    self.train(config, [PROGRAM, *overrides])
            record = _ended(replace(record, state="done", code=DONE), config)
        except KeyboardInterrupt:
            records.write(replace(record, state="interrupted", code=INTERRUPTED, reason="interrupted"))
            raise
        except Exception as error:  # the edge of a job: whatever it is, it gets a code and the others go on
            code = exit_code_of(error)
            text = redact_message(str(error) or type(error).__name__, overrides)
            if not is_explained(error) or os.environ.get("METTA_TRAIN_TRACEBACK"):
                traceback.print_exc()
                text = f"{type(error).__name__}: {text}"
            print(redact_message(f"{prefix}{text}", overrides), file=sys.stderr)
            state = "interrupted" if code == PREEMPTED else "failed"
            record = replace(record, state=state, code=code, reason=" ".join(text.split()))
            if code == PREEMPTED:
                records.ask_to_stop(self.sweep.start)  # the same command goes on with the one that was saved
        records.write(record)
        return NO_OBJECTIVE if record.objective is None else record.objective

    def _composition(self, tree: DictConfig, choices: Mapping[str, object], run: str) -> Composition:
        tree = tree.copy()
        with open_dict(tree):
            tree.run = run
            if tree.wandb.group is None:
                tree.wandb.group = self.sweep.name
        source = self.source
        return Composition(tree, dict(choices), source, origin_of(choices, source.folder, source.own_folders()))


def is_finished(config: RunConfig) -> bool:
    """Whether the run is done with this very configuration, so that training it again would change nothing."""
    paths = RunPaths.locate(config.data_dir, config.run)
    status = read_status(paths)
    if config.restart != "resume" or status is None or status.state != "done":
        return False
    saved = read_config(paths)
    if saved is None:
        return False
    changes = config_changes(saved, redact_config(config.plain()))
    return all(change.key.partition(".")[0] in _NOT_TRAINED for change in changes)


def _ended(record: JobRecord, config: RunConfig) -> JobRecord:
    paths = RunPaths.locate(config.data_dir, config.run)
    status, epochs = read_status(paths), last_epochs(paths.metrics)
    return replace(
        record,
        objective=objective_of(paths.metrics, record.metric),
        agent_step=0 if status is None else status.agent_step,
        seconds=epochs[-1].get(TOTAL_TIME) if epochs else None,
    )
