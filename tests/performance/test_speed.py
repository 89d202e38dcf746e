"""Prints how fast we are beside the plain reference in scripts/; a slow machine fails nobody.

python -m pytest tests/performance -s
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif("METTA_TRAIN_SPEED" not in os.environ, reason="takes a minute: METTA_TRAIN_SPEED=1 measures")
def test_ratio_to_the_plain_reference():
    script = REPOSITORY / "scripts" / "benchmark.py"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--threads", "1", "--arms", "ours", "reference"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    assert "ours / reference" in done.stdout
