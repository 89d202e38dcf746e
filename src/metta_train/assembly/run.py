"""A run from its start to its end, whatever ends it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from metta_train.assembly.design import Design, check_kind_of_agent, design_of
from metta_train.assembly.policy import initial_policy
from metta_train.assembly.run_reports import RunningStatus, header_of, outcome_of, status_of
from metta_train.assembly.trainer import build_trainer
from metta_train.reporting.console import stderr_console
from metta_train.reporting.reporter import RunOutcome
from metta_train.reporting.run_logging import run_logging
from metta_train.reporting.run_reporting import RunReporting, build_reporting
from metta_train.reporting.storage import StorageError
from metta_train.run_config import RunConfig
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import EpochRecord
from metta_train.training import checkpoints
from metta_train.training.batching import MemoryExhaustedError
from metta_train.training.checkpoint_listing import best_checkpoint, list_checkpoints, newest_checkpoint
from metta_train.training.memory import memory_exhausted
from metta_train.training.nonfinite import NonFiniteError
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_paths import RunPaths, free_run_name
from metta_train.training.saved_config import read_config
from metta_train.training.stopping import StopRequest, StopRequested
from metta_train.training.trainer import Trainer

logger = logging.getLogger(__name__)

MAX_ROLLBACKS = 3  # of one process, with trainer.nonfinite=rollback


def train(
    config: RunConfig, command: Sequence[str] = (), stop: StopRequest | None = None, *, suggests: bool = True
) -> Generator[EpochRecord, None, RunOutcome]:
    """Train, or continue the run of this name from its newest good checkpoint.

    Args:
        config: the whole run.
        command: how the program was called; recorded, and suggested again at the end. Without it, the command line
            that composes the same configuration.
        stop: asks the training to end early; None for a training that nobody stops.
        suggests: say at the end what to type next; the jobs of a sweep do not.

    Yields:
        One record per epoch.

    Returns:
        How it ended.

    Raises:
        ValueError: something in the configuration does not fit; nothing was written.
        StopRequested: the training was asked to end and has saved everything up to its last whole epoch.
        RunLockedError, StorageError, NoUsableCheckpointError, NonFiniteError, WorkerError: as their classes say.
    """
    stop = StopRequest() if stop is None else stop
    stop.check()
    command = command or ("metta-train", *config.origin.overrides)
    suggested = command if suggests else ()
    if config.restart == "new":
        config = config.model_copy(update={"run": free_run_name(config.data_dir, config.run)})
    design = design_of(config)
    paths = RunPaths.locate(config.data_dir, config.run)
    if config.restart == "overwrite" or newest_checkpoint(paths.checkpoints) is None:
        initial_policy(config)  # a mistake in it writes nothing
    stop.check()
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.open(config.data_dir, config.run))
        if config.restart == "overwrite":
            folder.clear()
        progress_console = stderr_console()
        stack.enter_context(run_logging(folder.paths.log, progress_console))
        checkpoints.remove_unfinished(folder.paths.checkpoints)
        checkpoint = checkpoints.newest_good(folder.paths.checkpoints)
        if checkpoint is not None:
            check_kind_of_agent(design, read_config(folder.paths))
        changes = folder.adopt_config(config.plain(), resuming=checkpoint is not None)
        folder.record_invocation(command, config.origin, resumed_from=None if checkpoint is None else checkpoint.path)
        if checkpoint is not None:
            logger.info("continuing from %s", checkpoint.path)
        if config.trainer.simulation.suite is not None and config.suite is None:
            logger.warning("trainer.simulation.suite is not played: trainer.simulation.evaluate_interval is 0")
        for change in changes:
            logger.info("changed since the last start: %s", change)
        reporting = build_reporting(
            progress_console,
            folder.paths.metrics,
            config.wandb,
            wandb_run_id=None if checkpoint is None else checkpoint.state.wandb_run_id,
            upload_interval=config.trainer.checkpoint.wandb_checkpoint_interval,
            is_best=lambda path: _is_best(folder, path),
            tensorboard=config.tensorboard,
        )
        attempt = stack.enter_context(ExitStack())
        trainer = build_trainer(design, folder, checkpoint, reporting, stop, attempt)
        stop.redrawn_rows = reporting.redrawn_rows
        reporting.reporters.start(header_of(design, folder, trainer.progress))
        rollbacks = 0
        status = RunningStatus(folder, config)
        try:
            while True:
                try:
                    for record in trainer.epochs():
                        status.epoch_ended(trainer)
                        yield record
                    break
                except NonFiniteError as error:
                    if config.trainer.nonfinite != "rollback" or rollbacks == MAX_ROLLBACKS:
                        raise
                    rollbacks += 1
                    logger.error("%s", error)
                attempt.close()
                trainer = _rolled_back(design, folder, rollbacks, reporting, stop, attempt)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | GeneratorExit | StopRequested)
            kind = "" if isinstance(error, StopRequested) else f"{type(error).__name__}: "  # nothing went wrong there
            message = f"{kind}{error}".removesuffix(": ")
            outcome = outcome_of("interrupted" if stopped else "failed", trainer, folder, config, suggested, message)
            reporting.reporters.finish(replace(outcome, patience=_patience(error)))
            with suppress(StorageError):  # perhaps the very reason why it failed; the error itself is what matters
                folder.write_status(status_of(outcome.state, trainer, config, message))
            if isinstance(error, StopRequested):
                steps = f"{trainer.progress.agent_step:,} agent steps"
                raise StopRequested(f"{error} at {steps}; nothing is lost, the same command goes on") from None
            if (reason := memory_exhausted(error)) is not None:
                raise MemoryExhaustedError(design.plan.when_memory_is_exhausted(reason)) from error
            raise
        outcome = outcome_of("done", trainer, folder, config, suggested)
        folder.write_status(status_of("done", trainer, config))
        reporting.reporters.finish(outcome)
        return outcome


def _rolled_back(
    design: Design, folder: RunFolder, rollbacks: int, reporting: RunReporting, stop: StopRequest, stack: ExitStack
) -> Trainer:
    """Back to the newest checkpoint, or to the start, and on with other episodes and other random numbers."""
    config = design.config
    checkpoint = checkpoints.newest_good(folder.paths.checkpoints)
    step = 0 if checkpoint is None else checkpoint.state.progress.agent_step
    logger.warning("rolled back to agent step %d, with new data (%d of %d)", step, rollbacks, MAX_ROLLBACKS)
    if checkpoint is None:
        design.policy.initialize(config.seed)
    reporting.reporters.rolled_back(step)
    data_seed = derived_seed(config.seed, "rollback", step, rollbacks)
    return build_trainer(design, folder, checkpoint, reporting, stop, stack, new_data_seed=data_seed)


def _patience(error: BaseException) -> float | None:
    """Seconds for the reporters: who asked for the end will not wait long."""
    match error:
        case KeyboardInterrupt():
            return 0.5
        case StopRequested():
            return 5.0
    return None


def _is_best(folder: RunFolder, path: Path) -> bool:
    best = best_checkpoint(list_checkpoints(folder.paths.checkpoints))
    return best is not None and best.path == path
