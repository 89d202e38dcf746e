from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig

from metta_train.cli import sweep_job, train
from metta_train.cli.compose import ConfigSource
from metta_train.cli.config_source import conf_folder
from metta_train.cli.exit_codes import DONE
from metta_train.cli.sweep import plan_sweep, sample_jobs
from metta_train.cli.sweep_job import SweepJob
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.training.run_paths import RunPaths

SOURCE = ConfigSource(conf_folder())


def test_every_value_is_in_a_sampled_job() -> None:
    # 2 x 3 x 1 = 6 jobs, of which 3 hold every value.
    assert sample_jobs(["seed=1,2", "trainer=smoke,gpu,laptop", "wandb=off"]) == [
        ["seed=1", "trainer=smoke", "wandb=off"],
        ["seed=2", "trainer=gpu", "wandb=off"],
        ["seed=1", "trainer=laptop", "wandb=off"],
    ]
    assert sample_jobs(["seed=range(0,3)"]) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert sample_jobs([]) == [[]]


def test_a_range_without_values_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("seed=range(0,0): holds no value")):
        sample_jobs(["trainer=smoke", "seed=range(0,0)"])


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("objective.metric=a,b", "all runs of a sweep are compared by one metric"),
        ("objective.goal=min", "needs one of maximize, minimize; did you mean minimize?"),
    ],
)
def test_a_sweep_has_one_objective(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{override}: {reason}")):
        plan_sweep(["run=s", "seed=1,2", override], SOURCE)


def test_the_run_names_the_sweep(tmp_path: Path) -> None:
    sweep = plan_sweep(["run=mine", "seed=1,2", f"data_dir={tmp_path}"], SOURCE)
    assert (sweep.name, sweep.data_dir) == ("mine", tmp_path)
    assert sweep.overrides == (f"hydra.sweep.dir='{tmp_path}/mine'", "run='mine'")
    assert sweep.planned == ("mine/seed-1", "mine/seed-2")


def test_a_sweep_without_a_name_gets_one(tmp_path: Path) -> None:
    sweep = plan_sweep(["seed=1,2", f"data_dir={tmp_path}"], SOURCE)
    assert re.fullmatch(r"sweep-\d{8}-\d{6}-[0-9a-f]{4}", sweep.name)
    assert sweep.overrides[1] == f"run='{sweep.name}'"


def test_several_names_are_several_runs(tmp_path: Path) -> None:
    sweep = plan_sweep(["run=a,b", f"data_dir={tmp_path}"], SOURCE)
    assert sweep.name.startswith("sweep-")
    assert sweep.overrides == (f"hydra.sweep.dir='{tmp_path}/{sweep.name}'",)
    assert sweep.planned == ("a", "b")
    both = plan_sweep(["run=a,b", "seed=1,2", f"data_dir={tmp_path}"], SOURCE)
    assert both.planned == ("a/seed-1", "a/seed-2", "b/seed-1", "b/seed-2")


def test_jobs_are_named_by_their_values_however_they_are_written(tmp_path: Path) -> None:
    rate = "trainer.optimizer.learning_rate"
    fixed = ["run=s", "trainer=smoke", f"data_dir={tmp_path}"]
    planned = plan_sweep([*fixed, f"{rate}=1e-3,5e-4", "seed=7"], SOURCE).planned
    assert planned == ("s/learning_rate-0.001__seed-7", "s/learning_rate-0.0005__seed-7")
    assert plan_sweep([*fixed, "seed=7,8", f"{rate}=0.0005,0.001"], SOURCE).planned == (
        "s/learning_rate-0.0005__seed-7",
        "s/learning_rate-0.001__seed-7",
        "s/learning_rate-0.0005__seed-8",
        "s/learning_rate-0.001__seed-8",
    )
    assert plan_sweep(fixed, SOURCE).planned == ("s/job",)


def test_the_same_job_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^two jobs would be the run 's/seed-1': a value is given twice$"):
        plan_sweep(["run=s", "seed=1,1", f"data_dir={tmp_path}"], SOURCE)


def test_a_sweep_is_new_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^restart=new: the jobs of a sweep are named by their values"):
        plan_sweep(["run=s", "seed=1,2", "restart=new", f"data_dir={tmp_path}"], SOURCE)


def test_a_job_gives_the_sweeper_its_objective(tmp_path: Path) -> None:
    """NaN tells sweepers of a failure; the others go on."""

    def trained(config: RunConfig, command: Sequence[str]) -> int:
        if config.seed == 2:
            raise ConfigError("not this one")
        folder = RunPaths.locate(config.data_dir, config.run).folder
        folder.mkdir(parents=True)
        line = {"metric/agent_step": 10.0, "overview/reward": 0.5 * config.seed}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return DONE

    overrides = ["run=s", "seed=1,2,3", "trainer=smoke", f"data_dir={tmp_path}"]
    sweep = plan_sweep(overrides, SOURCE)
    job = SweepJob(sweep, SOURCE, trained)
    objectives: list[float] = []
    train._hydra_main(["-m", *overrides, *sweep.overrides], SOURCE, lambda tree: objectives.append(job(tree)))
    assert objectives[::2] == [0.5, 1.5] and math.isnan(objectives[1])
    records = sweep.records.of_start(sweep.start)
    assert [(record.state, record.objective, record.reason) for record in records] == [
        ("done", 0.5, None),
        ("failed", None, "not this one"),
        ("done", 1.5, None),
    ]


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [
        ("auto", "3,5", ["3", "5", "3"]),
        ("cpu", "3,5", ["3,5", "3,5", "3,5"]),
        ("auto", "4", ["4", "4", "4"]),  # what Slurm gave the job
    ],
)
def test_jobs_of_a_launcher_share_out_the_gpus(
    device: str, visible: str, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def trained(config: RunConfig, command: Sequence[str]) -> int:
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return DONE

    def run_job(tree: DictConfig) -> float:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)  # as a process of its own finds it
        return job(tree)

    monkeypatch.setattr(sweep_job, "ignore_interrupts", lambda: None)
    overrides = ["run=s", "seed=1,2,3", "trainer=smoke", f"device={device}", f"data_dir={tmp_path}"]
    sweep = plan_sweep(overrides, SOURCE)
    job = SweepJob(replace(sweep, in_process=False), SOURCE, trained)
    train._hydra_main(["-m", *overrides, *sweep.overrides], SOURCE, run_job)
    assert found == seen


def test_another_sweeper_plans_its_jobs_itself(tmp_path: Path) -> None:
    sweep = plan_sweep(["run=s", "seed=1,2", "hydra.sweeper.max_batch_size=1", f"data_dir={tmp_path}"], SOURCE)
    assert sweep.planned is None
    assert sweep.run_of(["run='s'", "seed=4", "trainer.optimizer.learning_rate=0.1"]) == "s/learning_rate-0.1__seed-4"


def test_every_swept_value_must_compose() -> None:
    with pytest.raises(ConfigError, match=r"^trainer=hugo: needs one of gpu, laptop, smoke$"):
        plan_sweep(["seed=1,2", "trainer=smoke,gpu,hugo"], SOURCE)
    with pytest.raises(ConfigError, match=r"^run='../b' is not a valid run name"):
        plan_sweep(["run=a,../b"], SOURCE)


def test_a_value_that_only_fits_one_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^agent.clip_range=1: py_agent=fast is chosen"):
        plan_sweep(["py_agent=none,fast", "agent.clip_range=1"], SOURCE)
