"""docs/python.md: every block runs, as a script, outside the main thread, and without a file that is `__main__`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

import metta_train
from tests.cli.command import REPOSITORY, run_python

BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (REPOSITORY / "docs" / "python.md").read_text(), re.DOTALL | re.MULTILINE
)
LINE = ["trainer=smoke", "wandb=off", "run=a", "trainer.num_workers=1", "trainer.num_envs=2"]


def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    done = run_python(["-c", "\n".join(BLOCKS)], tmp_path)
    assert done.code == 0, done.err
    assert re.search(r"^3 2304 0\.\d+ \d\.\d+$", done.out, re.MULTILINE)
    assert "stopped by a timer at" in done.out
    assert done.out.endswith("(24, 1, 11) (24, 1)\n")
    invocation = json.loads((tmp_path / "train_dir/notebook/invocations.jsonl").read_text())
    assert invocation["argv"][:3] == ["metta-train", "agent=fast", "trainer=smoke"]
    assert "metta-train agent=fast trainer=smoke env=forage wandb=off run=notebook trainer.total_timesteps=" in done.out
    assert yaml.safe_load((tmp_path / "train_dir/short/config.yaml").read_text())["run"] == "short"
    assert json.loads((tmp_path / "train_dir/short/status.json").read_text())["state"] == "interrupted"


def test_outside_the_main_thread_fed_line_by_line_and_left_early(tmp_path: Path) -> None:
    """As a notebook does it: no file is `__main__`, standard error is no file, and the loop may be left."""
    script = f"""
import io, signal, sys, threading
from metta_train import load_config, train
sys.stderr = io.StringIO()
before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
config, records = load_config({LINE}), []
def first_epoch():
    for record in train(config):
        records.append(record)
        break
def the_rest():
    records.extend(train(config))
for work in (first_epoch, the_rest):
    thread = threading.Thread(target=work); thread.start(); thread.join()
assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
print([record.agent_step for record in records], threading.active_count())
"""
    done = subprocess.run(
        [sys.executable, "-"],
        input=script,
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[768, 768, 1536, 2304] 1"  # nothing was saved when the loop was left


def test_the_public_names() -> None:
    for name in metta_train.__all__:
        assert name in dir(metta_train) and getattr(metta_train, name) is not None
