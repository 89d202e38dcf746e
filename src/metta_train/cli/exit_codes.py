"""Which exception ends the process with which code: the one table."""

from __future__ import annotations

DONE = 0
CRASH = 1
BAD_USAGE = 2
NO_CHECKPOINT = 3
RUN_LOCKED = 4
STORAGE = 5
WORKERS = 6
NOT_FINITE = 7
PREEMPTED = 75  # EX_TEMPFAIL: saved; start the same command again
INTERRUPTED = 130

# By name, so that the table costs no import: most of these classes live beside torch.
EXIT_CODES = {
    "metta_train.specs.config_errors.ConfigError": BAD_USAGE,
    "metta_train.training.checkpoint_listing.CheckpointNotFoundError": NO_CHECKPOINT,
    "metta_train.training.checkpoints.NoUsableCheckpointError": NO_CHECKPOINT,
    "metta_train.training.checkpoint_files.DamagedCheckpointError": NO_CHECKPOINT,
    "metta_train.training.checkpoint_files.IncompatibleCheckpointError": NO_CHECKPOINT,
    "metta_train.training.run_lock.RunLockedError": RUN_LOCKED,
    "metta_train.reporting.storage.StorageError": STORAGE,
    "metta_train.envs.vector.WorkerError": WORKERS,
    "metta_train.training.nonfinite.NonFiniteError": NOT_FINITE,
    "metta_train.training.checkpoint_files.NonFiniteCheckpointError": NOT_FINITE,
    "metta_train.training.batching.MemoryExhaustedError": CRASH,
    "metta_train.training.stopping.StopRequested": PREEMPTED,
    "builtins.KeyboardInterrupt": INTERRUPTED,
}


def exit_code_of(error: BaseException) -> int:
    """The code of the nearest class in the table; a crash when there is none."""
    code = _code_in_table(error)
    return CRASH if code is None else code


def is_explained(error: BaseException) -> bool:
    """Whether the message says it all, so that a traceback would only hide it."""
    return _code_in_table(error) is not None


def _code_in_table(error: BaseException) -> int | None:
    for kind in type(error).__mro__:
        code = EXIT_CODES.get(f"{kind.__module__}.{kind.__qualname__}")
        if code is not None:
            return code
    return None
