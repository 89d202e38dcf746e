"""Names of runs, and where things lie in a run folder. Needs neither torch nor, for a name, the disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MAX_NAME_PARTS = 3
MAX_RUNS_OF_ONE_NAME = 10_000

_NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def validate_run_name(run: str) -> str:
    """Return `run` if it may name a run folder; touches no disk.

    A name has 1 to 3 parts divided by "/" (a multirun job is `<sweep>/<number>`); each part begins with a letter or
    digit, goes on with letters, digits, `.`, `_` or `-`, does not end with `.`, and has at most 128 characters.

    Raises:
        ValueError: otherwise.
    """
    parts = run.split("/")
    if len(parts) > MAX_NAME_PARTS:
        raise ValueError(f"run={run!r} has {len(parts)} parts; a run name has at most {MAX_NAME_PARTS}, divided by '/'")
    for part in parts:
        if not _NAME_PART.fullmatch(part) or part.endswith("."):
            raise ValueError(
                f"run={run!r} is not a valid run name: {part!r} must begin with a letter or digit, go on with letters, "
                "digits, '.', '_' or '-', not end with '.', and have at most 128 characters"
            )
    return run


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where things lie in a run folder; makes nothing."""

    run: str
    folder: Path

    @classmethod
    def locate(cls, data_dir: Path, run: str) -> RunPaths:
        """The paths of `run`, inside `data_dir` even after following links. Raises ValueError if it is not."""
        validate_run_name(run)
        root = data_dir.expanduser().resolve()
        folder = (root / run).resolve()
        if not folder.is_relative_to(root) or folder == root:
            raise ValueError(f"run={run!r} leads out of data_dir {root} through a link, to {folder}")
        return cls(run=run, folder=root / run)

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def invocations(self) -> Path:
        return self.folder / "invocations.jsonl"

    @property
    def status(self) -> Path:
        return self.folder / "status.json"

    @property
    def lock(self) -> Path:
        return self.folder / "run.lock"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def replays(self) -> Path:
        return self.folder / "replays"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"


def free_run_name(data_dir: Path, run: str) -> str:
    """`run`, or the first of `run-2`, `run-3`, ... that no run has.

    Raises:
        ValueError: the name may not name a run.
    """
    for number in range(1, MAX_RUNS_OF_ONE_NAME):
        name = run if number == 1 else f"{run}-{number}"
        folder = RunPaths.locate(data_dir, name).folder
        if not folder.is_dir() or not any(folder.iterdir()):
            return name
    raise ValueError(f"run={run!r}: there are {MAX_RUNS_OF_ONE_NAME} runs of this name; use another one")
