from __future__ import annotations

import re
from pathlib import Path

import pytest

from metta_train.cli.compose import ConfigSource
from metta_train.cli.config_source import conf_folder
from metta_train.cli.sweep import plan_sweep, sample_jobs
from metta_train.specs.config_errors import ConfigError

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


def test_the_run_names_the_sweep(tmp_path: Path) -> None:
    sweep = plan_sweep(["run=mine", "seed=1,2", f"data_dir={tmp_path}"], SOURCE)
    assert (sweep.name, sweep.data_dir) == ("mine", tmp_path)
    assert sweep.overrides == (f"hydra.sweep.dir='{tmp_path}/mine'", "run='mine'")


def test_a_sweep_without_a_name_gets_one(tmp_path: Path) -> None:
    sweep = plan_sweep(["seed=1,2", f"data_dir={tmp_path}"], SOURCE)
    assert re.fullmatch(r"sweep-\d{8}-\d{6}-[0-9a-f]{4}", sweep.name)
    assert sweep.overrides[1] == f"run='{sweep.name}'"


def test_several_names_are_several_runs(tmp_path: Path) -> None:
    sweep = plan_sweep(["run=a,b", f"data_dir={tmp_path}"], SOURCE)
    assert sweep.name.startswith("sweep-")
    assert sweep.overrides[1] == "hydra.sweep.subdir=../${run}"


def test_every_swept_value_must_compose() -> None:
    with pytest.raises(ConfigError, match=r"^trainer=hugo: needs one of gpu, laptop, smoke$"):
        plan_sweep(["seed=1,2", "trainer=smoke,gpu,hugo"], SOURCE)
    with pytest.raises(ConfigError, match=r"^run='../b' is not a valid run name"):
        plan_sweep(["run=a,../b"], SOURCE)


def test_a_value_that_only_fits_one_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^agent.clip_range=1: py_agent=fast is chosen"):
        plan_sweep(["py_agent=none,fast", "agent.clip_range=1"], SOURCE)
