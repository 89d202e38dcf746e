"""F3: the power is cut at any moment, and the disk keeps only what it was told to keep, or any part of the rest."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from metta_train.reporting.jsonl import read_metrics, truncate_metrics
from metta_train.reporting.metric_names import AGENT_STEP
from metta_train.training.checkpoint_files import MODEL_FILE
from metta_train.training.checkpoints import newest_good, remove_unfinished
from metta_train.training.run_paths import RunPaths
from metta_train.training.run_status import read_status
from metta_train.training.saved_config import read_config
from tests.faults.conftest import Tally
from tests.faults.power_loss import Cut, Moment
from tests.faults.runs import CARTPOLE, Run, assert_same_run
from tests.faults.warm_start import WarmStart

STEPS = [384, 768, 1152, 1536]  # saved; from the third on, one is deleted
ARGUMENTS = [
    *CARTPOLE,
    "trainer.total_timesteps=1536",
    "trainer.checkpoint.keep_last=2",
    "trainer.checkpoint.keep_best=0",
    "run=cut",
]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run that nobody interrupted, and every change that it made on its disk."""

    data_dir: Path
    cut: Cut
    models: dict[int, bytes]  # by agent step

    def paths(self) -> RunPaths:
        return RunPaths.locate(self.data_dir, "cut")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    path = tmp_path_factory.mktemp("power")
    for name in ("trace", "disk"):
        (path / name).mkdir()
    arguments = [f"record:{path / 'trace'}", *ARGUMENTS, f"data_dir={path / 'disk'}"]
    ended = Run(path, arguments, wrapper=["tests.faults.with_fault"]).wait()
    assert ended.code == 0, ended.err
    cut = Cut(path / "trace")
    models: dict[int, bytes] = {}
    last: dict[str, str | None] = {}
    for moment in cut.moments():
        last = next(cut.images(moment, random.Random(0)))[1]
        if moment.saved is not None:
            content = last[f"cut/checkpoints/{moment.saved}/{MODEL_FILE}"]
            models[int(moment.saved.removeprefix("step-"))] = (cut.folder / (content or "")).read_bytes()
    assert list(models) == STEPS
    # The recorder has missed nothing: replayed to its end, the trace is what really lies there.
    cut.write(last, path / "replayed")
    assert _contents(path / "replayed") == _contents(path / "disk")
    return Recorded(path / "disk", cut, models)


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def survives(recorded: Recorded, moment: Moment, data_dir: Path) -> int | None:
    """What the next start finds: the agent step of its checkpoint."""
    paths = RunPaths.locate(data_dir, "cut")
    remove_unfinished(paths.checkpoints)
    found = newest_good(paths.checkpoints)
    read_status(paths)
    config = read_config(paths)
    if found is None:
        assert moment.saved is None, f"{moment.saved} is lost"
        return None
    step = found.state.progress.agent_step
    assert moment.saved is None or step >= int(moment.saved.removeprefix("step-")), f"{moment.saved} is lost"
    assert (found.path / MODEL_FILE).read_bytes() == recorded.models[step]
    assert config is not None
    metrics = paths.metrics.with_name("copy.jsonl")  # contents are links
    metrics.write_bytes(paths.metrics.read_bytes())
    truncate_metrics(metrics, step)
    assert [row[AGENT_STEP] for row in read_metrics(metrics)] == [128.0 * n for n in range(1, step // 128 + 1)]
    return step


def cut_everywhere(
    recorded: Recorded, scratch: Path, tally: Tally, wanted: Callable[[str], bool]
) -> list[tuple[str, dict[str, str | None]]]:
    """All different images, each of them survived; those with a checkpoint in them are returned."""
    dice = random.Random(3)
    seen: set[tuple[str, ...]] = set()
    images: list[tuple[str, dict[str, str | None]]] = []
    for moment in recorded.cut.moments():
        for word, image in recorded.cut.images(moment, dice):
            key = (str(moment.saved), json.dumps(image, sort_keys=True))
            if key in seen or not wanted(word):
                continue
            seen.add(key)
            data_dir = scratch / "image"
            recorded.cut.write(image, data_dir)
            try:
                step = survives(recorded, moment, data_dir)
            except AssertionError as error:
                raise AssertionError(f"after operation {moment.number}, {moment.operation}; {word}: {error}") from error
            finally:
                shutil.rmtree(data_dir)
            tally.add(survived=True)
            if step is not None:
                images.append((f"{moment.number}, {word}", image))
    return images


@pytest.mark.fault("F3 power cut")
def test_what_was_synced_is_enough_at_every_moment(recorded: Recorded, tmp_path: Path, tally: Tally) -> None:
    """Everything, or nothing but what was synced."""
    cut_everywhere(recorded, tmp_path, tally, lambda word: word in ("everything", "nothing unsynced"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.fault("F3 power cut")
def test_whatever_else_reaches_the_disk_does_no_harm(recorded: Recorded, tmp_path: Path, tally: Tally) -> None:
    """Names without contents, halves, zeros, every single name lost or alone; a sample goes on to the bit."""
    images = cut_everywhere(recorded, tmp_path, tally, lambda word: True)
    assert len(images) > 200
    shutil.copytree(recorded.data_dir / "cut", tmp_path / "whole")
    with WarmStart(tmp_path) as warm:
        for word, image in random.Random(5).sample(images, 20):
            recorded.cut.write(image, tmp_path / "image")
            shutil.copytree(tmp_path / "image" / "cut", tmp_path / "cut")  # into these files the run may write
            shutil.rmtree(tmp_path / "image")
            code, seconds = warm.run(ARGUMENTS)
            assert code == 0, (word, (tmp_path / "warm.log").read_text()[-2000:])
            assert_same_run(tmp_path, "cut", "whole")
            tally.add(survived=True, recovery=seconds)
            shutil.rmtree(tmp_path / "cut")
