"""Ways to run the command line in tests."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.warm_python import Finished, run_warm

REPOSITORY = Path(__file__).resolve().parents[2]


def run_python(arguments: Sequence[str], folder: Path, path: Path = REPOSITORY / "src", **environ: str) -> Finished:
    """Run this interpreter in `folder` with the package from `path`."""
    before = _processor_seconds()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=_environment(path, environ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, _processor_seconds() - before)


def run_program(arguments: Sequence[str], folder: Path, path: Path = REPOSITORY / "src", **environ: str) -> Finished:
    """The same where the libraries are loaded already; for tests that are not about how a program starts."""
    return run_warm(arguments, folder, _environment(path, environ))


def metta_train(*arguments: str, folder: Path, **environ: str) -> Finished:
    """Run `metta-train` as a process of its own."""
    return run_program(["-m", "metta_train", *arguments], folder, REPOSITORY / "src", **environ)


@contextmanager
def running(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """This interpreter at work, in a session of its own, of which nothing is left behind; only its output is read."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _environment(path: Path, environ: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environ}


def _processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
