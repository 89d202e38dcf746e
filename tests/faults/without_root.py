"""`python -m tests.faults.without_root ARGUMENTS...`: the command line as root, without root's power over files."""

from __future__ import annotations

import ctypes
import os
import sys

PR_CAPBSET_DROP = 24  # linux/prctl.h
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2  # linux/capability.h


def main() -> None:
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0, "cannot give up a capability"
    os.execv(sys.executable, [sys.executable, "-m", "metta_train", *sys.argv[1:]])


if __name__ == "__main__":
    main()
