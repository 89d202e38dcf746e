"""Settings of OpenMP that must stand in the environment before torch is imported."""

from __future__ import annotations

import os

# How often a thread of the learner looks for its next piece of work before it sleeps. libgomp's default is to look for
# milliseconds, which is a catastrophe on cores that others use too; to sleep at once makes small operations on an idle
# machine slower than one thread. docs/benchmarks.md, "Threads", has the measurement.
SPIN_COUNT = "2000"


def set_thread_defaults() -> None:
    """Only what the user has not set."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
