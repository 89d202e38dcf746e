"""`metta-sweep` from the shell."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from metta_train.cli.exit_codes import BAD_USAGE, DONE, PREEMPTED
from tests.cli.command import Finished, metta_train, run_python, running

SPACE = """\
overrides: [trainer=smoke, trainer.total_timesteps=6144, env.max_steps=16, wandb=off]
optuna: {pruner_startup_trials: 1, warmup_looks: 1, looks: 8}
parameters:
  env.task.heart_reward: {type: uniform, low: -1.0, high: 1.0, center: 1.0}
"""


def metta_sweep(*arguments: str, folder: Path) -> Finished:
    return run_python(["-m", "metta_train.cli.sweep_search", *arguments], folder)


def test_a_search_finds_prunes_fails_and_goes_on(tmp_path: Path) -> None:
    """The reward is what is searched, so the best trial is the first and all others are worse from the start."""
    pytest.importorskip("optuna")
    (tmp_path / "space.yaml").write_text(SPACE)
    first = metta_sweep("space.yaml", "run=t", "--trials", "2", folder=tmp_path)
    assert first.code == DONE, first.err
    said = first.err.splitlines()
    assert said[0] == "trial-0000 started with heart_reward=1" and said[1].startswith("trial-0000 done: ")
    assert "the best so far" not in first.err, "the first is no better than others"
    sweep = tmp_path / "train_dir" / "t"
    with (sweep / "sweep.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["run"], row["state"]) for row in rows] == [("t/trial-0000", "done"), ("t/trial-0001", "pruned")]
    assert rows[0]["env.task.heart_reward"] == "1.0" and float(rows[0]["objective"]) > float(rows[1]["objective"])
    assert 0 < int(rows[1]["agent_step"]) < int(rows[0]["agent_step"]) == 6144
    assert json.loads((sweep / "trial-0001" / "status.json").read_text())["state"] == "interrupted"
    table = first.out.splitlines()
    assert table[0] == "t: 2 trials with optuna, 1 done, 1 pruned"
    assert "run: t/trial-0000\n" in (sweep / "trial-0000" / "config.yaml").read_text()
    assert "group: t\n" in (sweep / "trial-0000" / "config.yaml").read_text()

    # The same command again has nothing to do; without a space it shows the same, and says how to repeat the best.
    again = metta_sweep("run=t", "--trials", "2", "--json", folder=tmp_path)
    assert again.code == DONE, again.err
    told = json.loads(again.out)
    assert told["best"]["number"] == 0 and len(told["trials"]) == 2
    command = shlex.split(told["commands"]["the best again"])
    assert command[0] == "metta-train" and command[-1] == "run=t-best"
    repeated = metta_train(*command[1:], "trainer.total_timesteps=768", folder=tmp_path)
    assert repeated.code == DONE, repeated.err
    assert "heart_reward: 1.0\n" in (tmp_path / "train_dir" / "t-best" / "config.yaml").read_text()

    # Other settings would be another search.
    other = metta_sweep("space.yaml", "run=t", "env.max_steps=20", folder=tmp_path)
    assert other.code == BAD_USAGE and other.err.count("\n") == 1
    assert other.err.startswith("run=t: this search was begun with other settings (overrides: ")


def test_trials_that_cannot_train_end_the_search(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "space.yaml").write_text(
        "overrides: [trainer=smoke, wandb=off]\n"
        "parameters:\n  agent.components.core.bias_init: {type: choice, values: [one, two, three]}\n"
    )
    done = metta_sweep("space.yaml", "run=t", "--jobs", "3", folder=tmp_path)
    assert done.code == BAD_USAGE
    lines = done.out.splitlines()
    counted = re.fullmatch(r"t: (\d) trials with optuna, (\d) failed", lines[0])  # those that ran with the third end
    assert counted and counted[1] == counted[2] and 3 <= int(counted[1]) <= 5, done.err
    assert sum("bias_init" in line for line in lines) == int(counted[1])
    assert "every trial fails, so no other was begun" in done.err
    assert "Traceback" not in done.err + done.out


def test_ctrl_c_saves_the_trials(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "space.yaml").write_text(SPACE.replace("6144", "10000000"))
    with running("-m", "metta_train.cli.sweep_search", "space.yaml", "run=t", folder=tmp_path) as process:
        sweep, deadline = tmp_path / "train_dir" / "t", time.monotonic() + 120
        while not list(sweep.glob("trial-*/checkpoints/step-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED, out
    assert out.splitlines()[0] == "t: 1 trial with optuna, 1 stopped"
    assert json.loads((sweep / "trial-0000" / "status.json").read_text())["state"] == "interrupted"


BAD = {
    "": "which space? metta-sweep SPACE run=NAME; there are ppo, or a file of your own",
    "pppo": "pppo: needs one of ppo, or a .yaml file; did you mean ppo?",
    "ppo ppo": "ppo ppo: one space at a time",
    "nope.yaml": "nope.yaml: no such file",
    "ppo --jobs 0": "--jobs 0: needs 1 or more",
    "ppo --trials -1": "--trials -1: needs 0 or more",
    "ppo run=../x": "run='../x' is not a valid run name",
    "ppo run=new --trials 0": "run=new: there is no search of this name in",
    "ppo trainer=smok": "trainer=smok: needs one of gpu, laptop, smoke; did you mean smoke?",
    "ppo hydra.sweep.dir=x": "hydra.sweep.dir=x: has no place in a search",
    "ppo trainer.optimizer.learning_rate=3": "trainer.optimizer.learning_rate=3: the space searches this key",
    "ppo objective.goal=minimize": "objective.goal=minimize: has no place in a search",
    "ppo --metod optuna": "unrecognized arguments: --metod",
    "typo.yaml": "parameters.trainer.optimizer.lr",
    "wrong.yaml": "wrong.yaml: parameters.trainer.update_epochs.low=5: needs to be below high=2",
}


@pytest.mark.parametrize("line", BAD)
def test_a_wrong_command_line_earns_one_line_and_writes_nothing(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metta_train.cli import sweep_search

    typo = "parameters:\n  trainer.optimizer.lr: {type: uniform, low: 0.1, high: 0.2}\n"
    wrong = "parameters:\n  trainer.update_epochs: {type: int, low: 5, high: 2}\n"
    (tmp_path / "typo.yaml").write_text(typo)
    (tmp_path / "wrong.yaml").write_text(wrong)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    assert sweep_search.main(line.split()) == BAD_USAGE
    printed = capsys.readouterr()
    assert BAD[line].removeprefix("parameters.") in printed.err and printed.err.count("\n") == 1, printed.err
    assert printed.out == "" and not (tmp_path / "train_dir").exists()


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from metta_train.cli import sweep_search; assert sweep_search.main(['ppo', '--jobs', '0']) == 2; "
        "print(sorted({'torch', 'optuna', 'pufferlib', 'wandb', 'rich'} & set(sys.modules)))"
    )
    done = run_python(["-c", script], tmp_path)
    assert done.out == "[]\n", done
    shown = metta_sweep("--help", folder=tmp_path)
    assert shown.code == DONE and "metta-sweep ppo run=tune --jobs 4 --trials 100" in shown.out
