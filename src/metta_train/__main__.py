"""`python -m metta_train` is `metta-train`."""

from __future__ import annotations

import sys

from metta_train.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
