"""Settings of OpenMP that must stand in the environment before torch is imported."""

from __future__ import annotations

import os

# How often a thread of the learner looks for its next piece of work before it sleeps. libgomp's default is to look for
# milliseconds, which is a catastrophe on cores that others use too: two threads on two cores with a load of 5, full
# loop of the default task, agent steps per second: default 440, 20000: 1,850, 2000: 4,730, 0: 5,480. Alone on the
# machine sleeping at once costs about 5 %.
SPIN_COUNT = "0"


def set_thread_defaults() -> None:
    """Only what the user has not set."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
