"""A script that reaches into the program still finds what it looks for; so small a run says nothing about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_the_cost_of_reliability_is_measured() -> None:
    """Its arms train on the same numbers, which the script asserts."""
    command = [sys.executable, str(SCRIPTS / "reliability_cost.py"), "trainer=smoke", "--groups", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "checkpoint" in done.stdout and "log of actions" in done.stdout


def test_an_arm_that_fails_ends(tmp_path: Path) -> None:
    """PuffeRL keeps a thread; who waits for the arm's answer must hear that there is none."""
    workload = {
        "overrides": ["trainer=smoke", "trainer.optimizer.type=adam"],
        "precision": "fp32",
        "device": "cpu",
        "data_dir": str(tmp_path),
        "seed": 1,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmark_parts.serve_arm", "pufferl", json.dumps(workload)],
        input='{"work": "nothing", "seconds": 0}\n',
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert '{"ready"' in done.stdout
    assert "KeyError: 'nothing'" in done.stderr
