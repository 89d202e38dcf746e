"""Names of runs, and places in their folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.training.run_folder import RunFolder
from metta_train.training.run_paths import RunPaths, free_run_name, validate_run_name

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.mark.parametrize("name", ["a", "run1", "my.run-2_x", "2025", "sweep/0", "a/b/c", "x" * 128])
def test_good_names(name: str) -> None:
    assert validate_run_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/../b", "/abs", "a/", "/", "a//b", "a/b/c/d", ".hidden", "-flag", "_x", "a b", "a\n",
        "a\x00", "a:b", "a\\b", "~", "~root", "${x}", "a%2f", "ü", "x" * 129, "end.", "a/..", "a/./b", "con?", "a*",
    ],
)  # fmt: skip
def test_bad_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match=r"^run="):
        validate_run_name(name)


@given(name=st.text(max_size=12))
def test_an_accepted_name_stays_below_any_folder(name: str) -> None:
    try:
        validate_run_name(name)
    except ValueError:
        return
    assert os.path.normpath(name) == name
    assert not os.path.isabs(name)
    assert ".." not in name.split("/")


def test_names_are_checked_without_torch_and_without_the_disk(tmp_path: Path) -> None:
    code = (
        "import sys; from metta_train.training.run_paths import validate_run_name; validate_run_name('a/b');"
        "sys.exit('torch' in sys.modules or 'wandb' in sys.modules or 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": SOURCE}, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_paths_of_a_run_folder(tmp_path: Path) -> None:
    paths = RunPaths.locate(tmp_path, "sweep/3")
    folder = tmp_path / "sweep" / "3"
    assert paths.folder == folder
    names = (paths.config, paths.invocations, paths.status, paths.lock, paths.metrics, paths.log)
    assert [path.relative_to(folder).as_posix() for path in names] == [
        "config.yaml",
        "invocations.jsonl",
        "status.json",
        "run.lock",
        "metrics.jsonl",
        "train.log",
    ]
    assert [path.name for path in (paths.checkpoints, paths.replays, paths.wandb)] == [
        "checkpoints",
        "replays",
        "wandb",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_link_out_of_data_dir_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    (data / "sly").symlink_to(outside)
    for run in ("sly", "sly/0"):
        with pytest.raises(ValueError, match="leads out of data_dir"):
            RunFolder.open(data, run)
    assert list(outside.iterdir()) == []


def test_data_dir_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with RunFolder.open(tmp_path / "link", "a") as folder:
        assert folder.paths.folder == tmp_path / "real" / "a"


def test_a_free_name_is_the_first_that_nobody_has(tmp_path: Path) -> None:
    assert free_run_name(tmp_path, "a") == "a"
    (tmp_path / "a").mkdir()
    assert free_run_name(tmp_path, "a") == "a"  # empty: Hydra makes the folders of a sweep's jobs
    for name in ("a", "a-2", "a-4"):
        RunFolder.open(tmp_path, name).close()
    assert free_run_name(tmp_path, "a") == "a-3"
    with pytest.raises(ValueError, match="not a valid run name"):
        free_run_name(tmp_path, "../a")
