"""Sweeps from the shell, on a real environment."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest

from metta_train.cli.exit_codes import BAD_USAGE, DONE, PREEMPTED
from tests.cli.command import metta_train, run_python, running

SMALL = ("trainer=smoke", "trainer.total_timesteps=1536", "env.max_steps=16", "wandb=off")


def rows_of(sweep: Path) -> dict[str, dict[str, str]]:
    with (sweep / "sweep.csv").open() as lines:
        return {row["run"]: row for row in csv.DictReader(lines)}


def test_a_sweep_goes_on_behind_a_bad_job_and_what_is_done_stays_done(tmp_path: Path) -> None:
    line = ("-m", *SMALL, "run=s", "trainer.batch_size=-1,768")
    done = metta_train(*line, folder=tmp_path)
    assert done.code == BAD_USAGE
    reason = "trainer.batch_size=-1: needs a whole number greater than 0 or auto"
    assert f"job 0 ({' '.join(SMALL)} trainer.batch_size=-1): {reason}" in done.err.splitlines()
    assert "Traceback" not in done.err
    sweep = tmp_path / "train_dir" / "s"
    assert sorted(path.name for path in sweep.iterdir()) == [".jobs", "batch_size-768", "multirun.yaml", "sweep.csv"]
    assert json.loads((sweep / "batch_size-768" / "status.json").read_text())["state"] == "done"
    config = (sweep / "batch_size-768" / "config.yaml").read_text()
    assert "run: s/batch_size-768\n" in config and "group: s\n" in config
    assert not (tmp_path / "outputs").exists() and not (tmp_path / "multirun").exists()
    table = done.out.splitlines()
    assert "s: 2 jobs, 1 done, 1 failed" in table
    assert any(row.split()[:2] == ["batch_size=768", "1"] for row in table)
    assert any(row.split()[:2] == ["s/batch_size--1", "2"] and row.endswith(reason) for row in table)
    rows = rows_of(sweep)
    assert rows["s/batch_size--1"]["state"] == "failed" and rows["s/batch_size--1"]["code"] == "2"
    assert float(rows["s/batch_size-768"]["objective"]) >= 0.0 and rows["s/batch_size-768"]["agent_step"] == "1536"

    # Once more: what is done is not trained again, and what failed is tried again.
    written = (sweep / "batch_size-768" / "invocations.jsonl").read_text()
    again = metta_train(*line, folder=tmp_path)
    assert again.code == BAD_USAGE
    assert "s: 2 jobs, 1 done (1 before, skipped), 1 failed" in again.out.splitlines()
    assert (sweep / "batch_size-768" / "invocations.jsonl").read_text() == written
    assert rows_of(sweep)["s/batch_size-768"] == rows["s/batch_size-768"]
    assert "to evaluate it" not in done.out + done.err, "what comes next is said once, for all jobs"
    assert "to draw its curves: metta-runs plot 's/*'" in again.err.splitlines()

    # Another metric changes no training: what is done is compared anew, jobs of earlier starts too.
    metric = ("objective.metric=losses/entropy", "objective.goal=minimize")
    compared = metta_train("-m", *SMALL, "run=s", "trainer.batch_size=768", "seed=1", *metric, folder=tmp_path)
    assert compared.code == DONE, compared.err
    assert "losses/entropy, mean over the last tenth of each run (lower is better)" in compared.out.splitlines()
    assert (sweep / "batch_size-768" / "invocations.jsonl").read_text() == written
    entropies = {run: row["objective"] for run, row in rows_of(sweep).items() if row["state"] == "done"}
    assert entropies and all(float(entropy) > 1.0 for entropy in entropies.values())

    # The mistyped value of earlier starts is in the file, and no line of this table.
    assert "batch_size=-1" not in compared.out and "s/batch_size--1" in rows_of(sweep)


def test_each_job_has_a_wandb_run_of_its_own_and_other_settings_are_no_skip(tmp_path: Path) -> None:
    small = [word for word in SMALL if word != "wandb=off"]
    done = metta_train("-m", *small, "run=s", "wandb=offline", "seed=1,2", folder=tmp_path)
    assert done.code == DONE, done.err
    sweep = tmp_path / "train_dir" / "s"
    runs = [path.name for path in sweep.glob("seed-*/wandb/offline-run-*")]
    assert len({name.rpartition("-")[2] for name in runs}) == 2
    assert any(line.split()[:2] == ["all", "2"] for line in done.out.splitlines())
    longer = ["trainer.total_timesteps=2304" if "timesteps" in word else word for word in SMALL]
    done = metta_train("-m", *longer, "run=s", "seed=1", folder=tmp_path)
    assert done.code == DONE, done.err
    rows = rows_of(sweep)
    assert (rows["s/seed-1"]["agent_step"], rows["s/seed-2"]["agent_step"]) == ("2304", "1536")


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_of_a_launcher_tell_how_they_ended(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher" if launcher == "joblib" else "submitit")
    line = ("-m", *SMALL, "run=s", "seed=1", f"hydra/launcher={launcher}")
    done = run_python(["-m", "metta_train", *line, "agent.clip_range=0,-1"], tmp_path)
    assert done.code == BAD_USAGE, done.err
    assert "s: 2 jobs, 1 done, 1 failed" in done.out.splitlines()
    rows = rows_of(tmp_path / "train_dir" / "s")
    assert {name: row["state"] for name, row in rows.items()} == {
        "s/clip_range-0__seed-1": "done",
        "s/clip_range--1__seed-1": "failed",
    }
    assert rows["s/clip_range--1__seed-1"]["reason"].startswith("agent.clip_range=-1: needs a number")


def test_a_launcher_that_is_not_there(tmp_path: Path) -> None:
    done = metta_train("-m", "seed=1,2", "hydra/launcher=jobli", folder=tmp_path)
    assert done.code == BAD_USAGE and done.err.count("\n") == 1
    assert "hydra/launcher=jobli" in done.err and "pip install 'metta-train[launch]'" in done.err


@pytest.mark.parametrize(
    "launcher",
    [
        (),
        pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=pytest.mark.slow),
        pytest.param(("hydra/launcher=submitit_local",), marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_saves_every_job_and_starts_no_other(launcher: tuple[str, ...], tmp_path: Path) -> None:
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    endless = ("trainer=smoke", "trainer.total_timesteps=10000000", "wandb=off", "run=s", "seed=1,2,3")
    with running("-m", "metta_train", "-m", *endless, *launcher, folder=tmp_path) as process:
        begun, deadline = 2 if launcher else 1, time.monotonic() + 120
        sweep = tmp_path / "train_dir" / "s"
        while len(list(sweep.glob("*/checkpoints/step-*"))) < begun:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED, out
    assert "s: 3 jobs, 3 stopped" in out
    if launcher != ("hydra/launcher=submitit_local",):  # which starts all jobs at once
        assert any(line.split()[:2] == ["s/seed-3", "75"] and "not started" in line for line in out.splitlines())
    for job in sweep.glob("seed-*"):
        assert json.loads((job / "status.json").read_text())["state"] == "interrupted"
