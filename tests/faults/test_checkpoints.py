"""F2, F4, F5, F6, F7: saves that are cut, damaged, refused or do not fit."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest

from metta_train.training.checkpoints import CONTENT_FILES, MANIFEST_FILE
from tests.faults.conftest import Tally
from tests.faults.runs import CARTPOLE, Run, assert_same_run, lines, metrics, newest, steps, train, weights
from tests.faults.warm_start import WarmStart

WRAPPER = ["tests.faults.with_fault"]
SHORT = [*CARTPOLE, "trainer.total_timesteps=1536"]  # 12 epochs, 4 checkpoints


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


def die_in_save(data_dir: Path, points: list[int], tally: Tally) -> None:
    for point in points:
        run = f"die-{point}"
        killed = Run(data_dir, [f"die-at:{point}", *SHORT, f"run={run}"], wrapper=WRAPPER).wait()
        if killed.code == 0:
            break  # there are no more points
        assert killed.code == -9, killed.err
        before = steps(data_dir, run)
        if before:
            newest(data_dir, run)  # whatever is visible is whole
        again = train(data_dir, *SHORT, f"run={run}")
        assert again.code == 0, again.err
        assert_same_run(data_dir, run, "whole")
        tally.add(survived=True, recovery=again.seconds)
        shutil.rmtree(data_dir / run)


@pytest.mark.fault("F2 kill -9 inside a save")
def test_death_at_some_operations_of_a_save(data_dir: Path, tally: Tally) -> None:
    die_in_save(data_dir, [9, 31], tally)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault("F2 kill -9 inside a save")
def test_death_at_every_operation_of_the_saves(data_dir: Path, tally: Tally) -> None:
    die_in_save(data_dir, list(range(0, 70, 2)), tally)


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
        for number, (name, damage) in enumerate(itertools.product((*CONTENT_FILES, MANIFEST_FILE), damages)):
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
        pytest.param("trainer.optimizer.type=muon", "trainer.optimizer.type", marks=pytest.mark.slow),
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.fault("F7 read-only folder")
def test_a_folder_that_cannot_be_written_is_told_at_once(data_dir: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    run = train(data_dir, *SHORT, "run=x", f"data_dir={locked}")
    assert run.code == 5, run.err


@pytest.mark.fault("F7 run folder removed")
def test_a_run_folder_that_is_removed_ends_the_run(data_dir: Path) -> None:
    run = Run(data_dir, [*CARTPOLE, "run=gone", "trainer.total_timesteps=1000000"])
    run.wait_until(lambda: lines(data_dir, "gone") >= 4)
    (data_dir / "gone").rename(data_dir / "moved-away")
    ended = run.wait(60)
    assert ended.code == 5, ended.err
    assert not (data_dir / "gone").exists()
