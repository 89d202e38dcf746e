"""Runs on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from metta_train.specs.config_errors import ConfigError
from metta_train.training.run_catalog import (
    find_matching,
    find_reference,
    find_run,
    find_runs,
    is_locked,
    read_invocations,
    read_run_config,
    remove_run,
    same_settings,
    setting_label,
    summarize,
)
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_lock import RunLockedError
from tests.fakes.run_folders import write_run


def names(data_dir: Path) -> list[str]:
    return [paths.run for paths in find_runs(data_dir)]


def test_runs_are_found_with_the_jobs_of_sweeps_in_their_order(tmp_path: Path) -> None:
    for run in ("b", "sweep/10", "sweep/9", "a/x/y"):
        write_run(tmp_path, run, rewards=(), scores=())
    (tmp_path / "no run").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "inner").mkdir()
    (tmp_path / "b" / "inner" / "config.yaml").touch()
    assert names(tmp_path) == ["a/x/y", "b", "sweep/9", "sweep/10"]
    assert names(tmp_path / "none") == []
    with pytest.raises(ConfigError, match="not a folder"):
        names(tmp_path / "b" / "config.yaml")


def test_a_link_out_of_the_data_dir_is_no_run(tmp_path: Path) -> None:
    write_run(tmp_path / "outside", "secret", rewards=(), scores=())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x").symlink_to(tmp_path / "outside" / "secret")
    assert names(tmp_path / "runs") == []
    with pytest.raises(ConfigError, match="leads out of data_dir"):
        find_run(tmp_path / "runs", "x")


def test_names_patterns_and_references(tmp_path: Path) -> None:
    for run in ("s/0", "s/1", "t"):
        write_run(tmp_path, run)
    assert [paths.run for paths in find_matching(tmp_path, ["t", "s/*", "s/0"])] == ["t", "s/0", "s/1"]
    reference = find_reference(tmp_path, "t:best")
    assert (reference.paths.run, reference.selector, reference.checkpoint().agent_step) == ("t", "best", 4000)
    assert find_reference(tmp_path, "t").checkpoint().agent_step == 4000
    with pytest.raises(ConfigError, match="'tt'"):
        find_run(tmp_path, "tt")


def test_a_summary(tmp_path: Path) -> None:
    paths = write_run(tmp_path, "mine", state="failed", rewards=(1.0, 5.0), scores=(2.0,), goal=4000)
    run = summarize(paths)
    assert (run.condition, run.epoch, run.agent_step, run.total_timesteps) == ("failed", 2, 2000, 4000)
    assert (run.reward, run.steps_per_second, run.checkpoints, run.rewards) == (5.0, 500.0, 1, (1.0, 5.0))
    assert (run.agent, run.environment) == ("agent=fast", "forage")
    assert 0 <= run.age < 60
    paths.status.write_text("torn")
    assert summarize(paths).condition == "crashed"


def test_the_speed_is_that_of_the_last_epochs_while_it_runs_and_of_all_afterwards(tmp_path: Path) -> None:
    paths = write_run(tmp_path, "mine", scores=())
    times = [(1000.0, 8.0), (2000.0, 10.0)]  # the first epoch was slow
    paths.metrics.write_text(
        "".join(f'{{"metric/agent_step": {step}, "metric/total_time": {time}}}\n' for step, time in times)
    )
    assert summarize(paths).steps_per_second == 200.0
    with RunFolder.open(tmp_path, "mine"):
        assert summarize(paths).steps_per_second == 500.0


def test_the_lock_is_seen_and_left_alone(tmp_path: Path) -> None:
    paths = write_run(tmp_path, "mine", rewards=(), scores=())
    assert not is_locked(paths)
    with RunFolder.open(tmp_path, "mine"):
        assert is_locked(paths) and summarize(paths).condition == "running"
        with pytest.raises(RunLockedError, match="being trained"):
            remove_run(paths)
    RunFolder.open(tmp_path, "mine").close()
    remove_run(paths)
    assert not paths.folder.exists() and not is_locked(paths)
    assert list(tmp_path.iterdir()) == []


def test_runs_that_differ_by_seed_alone_belong_together(tmp_path: Path) -> None:
    rate = "trainer.optimizer.learning_rate="
    for run, overrides in {
        "a": ["seed=1"],
        "b": ["seed=2", f"{rate}1e-4"],
        "c": ["seed=3"],
        "d": ["seed=4", f"{rate}1e-4", "wandb.project=other"],
    }.items():
        write_run(tmp_path, run, *overrides, rewards=(), scores=())
    configs = {paths.run: read_run_config(paths) for paths in find_runs(tmp_path)}
    assert same_settings(configs) == [("a", "c"), ("b", "d")]
    assert setting_label(configs["b"], [configs["a"]]) == "learning_rate=0.0001"
    assert setting_label(configs["a"], [configs["c"]]) == ""


def test_starts_are_read_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    paths = write_run(tmp_path, "mine", "seed=5")
    with paths.invocations.open("a") as file:
        file.write('{"argv": ["torn')
    (invocation,) = read_invocations(paths)
    assert invocation.argv == ("metta-train", "run=mine", "seed=5") and "torch" in invocation.versions


def test_a_run_without_config_says_so(tmp_path: Path) -> None:
    paths = write_run(tmp_path, "mine")
    paths.config.unlink()
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        read_run_config(paths)
