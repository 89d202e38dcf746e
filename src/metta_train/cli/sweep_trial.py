"""A trial's process: `metta-train`, which saves and ends when the search that started it dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from metta_train.cli.train import main as metta_train

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Run a trial.

    Args:
        arguments: the search's process, then those of metta-train.
    """
    parent, *others = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        return -signal.SIGTERM
    return metta_train(others)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
