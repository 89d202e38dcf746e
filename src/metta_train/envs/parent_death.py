"""An env worker does not outlive its trainer, whatever ends that. Done first of all, so nothing heavy is imported."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT_CHECK_SECONDS = 1.0


def die_with(parent: int) -> None:
    """Between messages the end of the connection tells; this also ends a worker that starts, is busy or stuck."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=end_without, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        sys.exit("the trainer is gone")


def end_without(parent: int) -> None:
    """Ends this process once its parent is another one, where no signal tells of its death."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
