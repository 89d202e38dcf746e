"""Ways to run the command line in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended."""

    code: int
    out: str
    err: str


def run_python(arguments: Sequence[str], folder: Path, path: Path = REPOSITORY / "src", **environ: str) -> Finished:
    """Run this interpreter in `folder` with the package from `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environ}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def metta_train(*arguments: str, folder: Path, **environ: str) -> Finished:
    """Run `metta-train` as a process of its own."""
    return run_python(["-m", "metta_train", *arguments], folder, REPOSITORY / "src", **environ)
