"""F2, F4, F5, F6, F7: saves that are cut, damaged, refused or do not fit."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metta_train.training.checkpoint_files import CONTENT_FILES, MANIFEST_FILE
from tests.faults.conftest import Tally
from tests.faults.runs import (
    CARTPOLE,
    REPOSITORY,
    Run,
    assert_same_run,
    lines,
    metrics,
    newest,
    steps,
    train,
    weights,
)
from tests.faults.warm_start import WarmStart

FILES = (*CONTENT_FILES, MANIFEST_FILE)
WRAPPER = ["tests.faults.with_fault"]
SMALL_DISK = str(REPOSITORY / "tests" / "faults" / "small_disk.sh")
SHORT = [*CARTPOLE, "trainer.total_timesteps=1536"]  # 12 epochs, 4 checkpoints
PRUNING = [*SHORT, "trainer.checkpoint.keep_last=2", "trainer.checkpoint.keep_best=0"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints")
    assert train(path, *SHORT, "run=whole").code == 0
    return path


def copy_of(data_dir: Path, name: str) -> Path:
    """Another run with what the whole one left behind."""
    target = data_dir / name
    shutil.copytree(data_dir / "whole", target)
    config = target / "config.yaml"
    config.write_text(config.read_text().replace("run: whole", f"run: {name}"))
    return target


def die_and_go_on(data_dir: Path, warm: WarmStart, fault: str, tally: Tally) -> str | None:
    """A run that kills itself inside a save, and the one after it; returns where it died, None if it did not."""
    run = "die"
    arguments = [*PRUNING, f"run={run}"]
    log = data_dir / "die.log"
    log.write_text("")
    code, _ = warm.run(arguments, fault=fault, log=log.name)
    if code == 0:
        shutil.rmtree(data_dir / run)
        return None
    assert code == -9, log.read_text()
    died = log.read_text().rpartition("killed before: ")[2].strip()
    before = steps(data_dir, run)
    if before:
        newest(data_dir, run)  # whatever is visible is whole
    log.write_text("")
    code, seconds = warm.run(arguments, log=log.name)
    assert code == 0, (died, log.read_text())
    # Never from scratch where something was saved.
    continued = re.findall(r"continuing from \S+/step-(\d+)", log.read_text().replace("\n", ""))
    assert [int(step) for step in continued] == before[-1:], died
    assert_same_run(data_dir, run, "whole")
    left = steps(data_dir, run)  # after a death in its last save a run has nothing to do any more, not even to delete
    assert left[-2:] == [1152, 1536] and len(left) <= 2 + (before[-1:] == [1536]), died
    shutil.rmtree(data_dir / run)
    tally.add(survived=True, recovery=seconds)
    return died


@pytest.mark.fault("F2 kill -9 inside a save")
def test_death_at_some_points_of_a_save(data_dir: Path, tally: Tally) -> None:
    with WarmStart(data_dir) as warm:
        for point in (
            "rename .tmp-step-000000001152-*",  # complete, not yet under its name
            "unlink .trash-step-000000000384-*/model.safetensors",  # in the middle of a deletion
        ):
            assert die_and_go_on(data_dir, warm, f"die-before:{point}", tally) is not None, point


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault("F2 kill -9 inside a save")
def test_death_at_every_point_of_the_saves(data_dir: Path, tally: Tally) -> None:
    """Four saves: the first makes the folder, the third and fourth delete an older checkpoint."""
    points: list[str] = []
    with WarmStart(data_dir) as warm:
        while (died := die_and_go_on(data_dir, warm, f"die-at:{len(points)}", tally)) is not None:
            points.append(died)
    wanted = [
        "mkdir checkpoints",
        "fsync checkpoints",
        "mkdir .tmp-step-*",
        *(f"{operation} .tmp-step-*/{name}" for name in FILES for operation in ("open", "fsync")),
        "rename .tmp-step-*",
        "rename step-*",
        *(f"unlink .trash-step-*/{name}" for name in FILES),
        "rmdir .trash-step-*",
    ]
    assert [want for want in wanted if not fnmatch.filter(points, want)] == []
    assert len(points) > 60, points


@pytest.mark.fault("F4 damaged checkpoint")
def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_is_used(data_dir: Path) -> None:
    folder = copy_of(data_dir, "damaged")
    path = newest(data_dir, "damaged") / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = train(data_dir, *SHORT, "run=damaged")
    assert again.code == 0, again.err
    assert "does not have the SHA-256" in again.err and "continuing from the older checkpoint" in again.err
    assert (folder / "checkpoints" / "step-000000001536.corrupt-1").is_dir()
    started = [json.loads(line)["resumed_from"] for line in (folder / "invocations.jsonl").read_text().splitlines()]
    assert started == [None, "step-000000001152"]
    assert_same_run(data_dir, "damaged", "whole")


@pytest.mark.fault("F4 all checkpoints damaged")
def test_when_all_are_damaged_nothing_is_deleted_and_nothing_starts(data_dir: Path) -> None:
    folder = copy_of(data_dir, "hopeless")
    for path in (folder / "checkpoints").iterdir():
        (path / "manifest.json").write_bytes(b"")
    before = sorted(str(path) for path in (folder / "checkpoints").rglob("*"))
    metrics_before = (folder / "metrics.jsonl").read_bytes()
    again = train(data_dir, *SHORT, "run=hopeless")
    assert again.code == 3, again.err
    assert "no usable checkpoint" in again.err and "Nothing was deleted" in again.err
    assert sorted(str(path) for path in (folder / "checkpoints").rglob("*")) == before
    assert (folder / "metrics.jsonl").read_bytes() == metrics_before


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault("F4 damaged checkpoint")
def test_every_kind_of_damage_in_every_file(data_dir: Path, tally: Tally) -> None:
    dice = random.Random(4)
    damages = ("bit", "bit", "bit", "bit", "cut", "empty", "longer", "missing", "swapped")
    other = data_dir / "whole" / "checkpoints"
    with WarmStart(data_dir) as warm:
        for number, (name, damage) in enumerate(itertools.product(FILES, damages)):
            run = f"damage-{number}"
            copy_of(data_dir, run)
            path = newest(data_dir, run) / name
            content = bytearray(path.read_bytes())
            place = dice.randrange(len(content))
            match damage:
                case "bit":
                    content[place] ^= 1 << dice.randrange(8)
                case "cut":
                    del content[place:]
                case "empty":
                    content.clear()
                case "longer":
                    content.append(0)
                case "swapped":
                    content[:] = (sorted(other.glob("step-*"))[0] / name).read_bytes()
            path.unlink() if damage == "missing" else path.write_bytes(content)
            code, seconds = warm.run([*SHORT, f"run={run}"])
            log = (data_dir / "warm.log").read_text()
            assert code == 0, (name, damage, log[-2000:])
            assert_same_run(data_dir, run, "whole")
            # A folder without its manifest is an unfinished one: it is left alone, and written anew.
            if not (name == MANIFEST_FILE and damage == "missing"):
                assert (data_dir / run / "checkpoints" / "step-000000001536.corrupt-1").is_dir(), (name, damage)
            tally.add(survived=True, recovery=seconds)
            shutil.rmtree(data_dir / run)


@pytest.mark.fault("F5 other configuration")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("agent=fast", "choose agent=mlp"),
        ("env.id=Acrobot-v1", "env.id"),
        pytest.param("trainer.optimizer.type=adam", 'trainer.optimizer.type: "muon" -> "adam"', marks=pytest.mark.slow),
        pytest.param("seed=6", "seed: 5 -> 6", marks=pytest.mark.slow),
    ],
)
def test_what_does_not_fit_is_refused_with_the_difference(data_dir: Path, change: str, words: str) -> None:
    before = (data_dir / "whole" / "config.yaml").read_bytes()
    refused = train(data_dir, *SHORT, "run=whole", change)
    assert refused.code == 2, refused.err
    assert words in refused.err and "Traceback" not in refused.err
    assert (data_dir / "whole" / "config.yaml").read_bytes() == before


@pytest.mark.fault("F5 other learning rate, length, intervals")
def test_what_may_change_takes_effect(data_dir: Path) -> None:
    copy_of(data_dir, "changed")
    again = train(
        data_dir,
        *SHORT,
        "run=changed",
        "trainer.total_timesteps=1920",
        "trainer.optimizer.learning_rate=1e-5",
        "trainer.hyperparameter_scheduler.learning_rate_schedule.type=constant",
        "trainer.checkpoint.checkpoint_interval=1",
        "env.restart_budget=2",
    )
    assert again.code == 0, again.err
    assert "changed since the last start: trainer.optimizer.learning_rate" in again.err
    rows = metrics(data_dir, "changed")
    assert [row["hyperparameters/learning_rate"] for row in rows[12:]] == [1e-5] * 3
    assert rows[:12] == metrics(data_dir, "whole")
    assert steps(data_dir, "changed")[-1] == 1920


@pytest.mark.slow
@pytest.mark.fault("F6 full disk")
def test_a_disk_that_is_full_for_a_while_costs_nothing(data_dir: Path) -> None:
    """The second and third checkpoint find no room, all tries of both; the fourth does."""
    run = Run(data_dir, ["full-disk:2-9", *SHORT, "run=tight"], wrapper=WRAPPER).wait()
    assert run.code == 0, run.err
    assert "The training goes on; step-000000000384 is still good (failed save 2 of 3)" in run.err
    assert steps(data_dir, "tight") == [384, 1536]
    assert weights(data_dir, "tight") == weights(data_dir, "whole")


@pytest.mark.fault("F6 full disk")
def test_a_disk_that_stays_full_ends_with_5(data_dir: Path) -> None:
    run = Run(data_dir, ["full-disk:2", *SHORT, "run=full"], wrapper=WRAPPER).wait()
    assert run.code == 5, run.err
    assert "the disk is full" in run.err.splitlines()[-1] and "Traceback" not in run.err
    newest(data_dir, "full")
    again = train(data_dir, *SHORT, "run=full")
    assert again.code == 0, again.err
    assert_same_run(data_dir, "full", "whole")


@pytest.mark.slow
@pytest.mark.fault("F6 full disk")
@pytest.mark.parametrize("filled", [5, 600])
def test_a_real_disk_without_one_free_byte(data_dir: Path, tmp_path: Path, filled: int) -> None:
    """Checkpoints, metrics, status and log find no room, for some seconds or to the end."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    alone = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no file system of one's own here")
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*alone, "sh", SMALL_DISK, sys.executable, "-m", "metta_train", *SHORT, "run=real", f"data_dir={disk}"],
        env={**environ, "DISK": str(disk), "KEPT": str(kept), "FILLED": str(filled)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "the disk is full" in (tmp_path / "kept.filler").read_text()
    assert "the disk is full" in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == (0 if filled < 60 else 5), done.stderr
    newest(kept, "real")
    if done.returncode:
        again = train(kept, *SHORT, "run=real", f"data_dir={kept}")
        assert again.code == 0, again.err
    shutil.copytree(data_dir / "whole", kept / "whole")
    assert weights(kept, "real") == weights(kept, "whole")
    assert metrics(kept, "real") == metrics(kept, "whole")


@pytest.mark.fault("F7 read-only folder")
def test_a_folder_that_cannot_be_written_is_told_at_once(data_dir: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    wrapper = ["tests.faults.without_root"] if os.geteuid() == 0 else []
    run = Run(data_dir, [*SHORT, "run=x", f"data_dir={locked}"], wrapper=wrapper).wait()
    assert run.code == 5, run.err
    assert run.err.count("\n") == 1 and str(locked) in run.err, run.err


@pytest.mark.fault("F7 run folder removed")
def test_a_run_folder_that_is_removed_ends_the_run(data_dir: Path) -> None:
    run = Run(data_dir, [*CARTPOLE, "run=gone", "trainer.total_timesteps=1000000"])
    run.wait_until(lambda: lines(data_dir, "gone") >= 4)
    (data_dir / "gone").rename(data_dir / "moved-away")
    ended = run.wait()
    assert ended.code == 5, ended.err
    assert not (data_dir / "gone").exists()
