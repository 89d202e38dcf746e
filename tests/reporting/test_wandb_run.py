"""What a real training leaves in wandb's offline files: one run over all starts, checkpoints, films."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageSequence

from metta_train import load_config
from metta_train.assembly.run import train
from metta_train.envs.build import environment_spec
from metta_train.playback import evaluation_film
from metta_train.playback.episodes import Player
from metta_train.policies.uniform import UniformPolicy
from metta_train.training.checkpoint_listing import list_checkpoints
from tests.reporting.wandb_file import read_records

ARGUMENTS = [
    "agent=fast",
    "trainer=smoke",
    "env.max_steps=20",
    "env.task.rooms=1",
    "wandb=offline",
    "wandb.video_interval=2",
    "trainer.checkpoint.checkpoint_interval=1",
    "trainer.checkpoint.wandb_checkpoint_interval=1",
    "trainer.simulation.evaluate_interval=2",
    "trainer.simulation.num_episodes=1",
]


def run(data_dir: Path, steps: int, name: str = "mine", *more: str) -> Path:
    """Train up to some agent steps; the folder of the run."""
    arguments = [*ARGUMENTS, f"run={name}", f"data_dir={data_dir}", f"trainer.total_timesteps={steps}", *more]
    for _ in train(load_config(arguments)):
        pass
    return data_dir / name


def starts(folder: Path) -> list[list[Any]]:
    """The records of each start, once wandb's own process has written the last of them."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        deadline = time.monotonic() + 60.0
        while not (records := read_records(file)) or records[-1].WhichOneof("record_type") != "exit":
            assert time.monotonic() < deadline, f"{file} has no end after 60 s"
            time.sleep(0.02)
        found.append(records)
    return found


def rows(records: list[Any]) -> list[dict[str, Any]]:
    found = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in found]


def artifacts(records: list[Any]) -> list[tuple[int, set[str]]]:
    """Epoch and aliases."""
    found = [record.request.log_artifact.artifact for record in records] + [record.artifact for record in records]
    return [(json.loads(told.metadata)["epoch"], set(told.aliases)) for told in found if told.name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("wandb")
    run(data_dir, 1152)
    time.sleep(1.1)  # wandb names a start's folder by the second
    return run(data_dir, 2304)


def test_a_continued_run_is_the_same_run_and_has_every_step_once(folder: Path) -> None:
    first, second = starts(folder)
    ids = {record.run.run_id for records in (first, second) for record in records if record.HasField("run")}
    assert len(ids) == 1
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["_step"] for row in rows(first) + rows(second)] == [line["metric/agent_step"] for line in lines]
    states = [json.loads((c.path / "state.json").read_text()) for c in list_checkpoints(folder / "checkpoints")]
    assert {state["wandb_run_id"] for state in states} == ids


def test_checkpoints_are_artifacts_with_aliases(folder: Path) -> None:
    uploaded = [told for records in starts(folder) for told in artifacts(records)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [epoch for epoch, _ in uploaded] == list(range(1, len(lines) + 1))
    for (epoch, aliases), line in zip(uploaded, lines, strict=True):
        assert {"latest", f"epoch-{epoch}", f"step-{line['metric/agent_step']:.0f}"} <= aliases
    evaluated = {line["metric/epoch"]: line["eval_forage/score"] for line in lines if "eval_forage/iqm" in line}
    best = {epoch for epoch, aliases in uploaded if "best" in aliases}
    records = [e for e, score in evaluated.items() if score == max(s for x, s in evaluated.items() if x <= e)]
    assert {epoch for epoch in best if epoch in evaluated} == set(records)
    assert not {epoch for epoch in best if epoch > 2} - set(evaluated), "no reward beats an evaluation"


def test_films_of_evaluations_are_uploaded(folder: Path) -> None:
    """The file lies beside wandb's record of it, which `wandb sync` uploads, and it holds moving pictures."""
    name = "eval_forage/video"
    told = [
        (row["_step"], {key: row[f"{name}/{key}"] for key in ("_type", "path", "size", "sha256")})
        for records in starts(folder)
        for row in rows(records)
        if f"{name}/path" in row
    ]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in told] == [line["metric/agent_step"] for line in lines if "eval_forage/iqm" in line]
    films = sorted((folder / "videos").iterdir())
    assert len(films) == len(told) >= 1
    for film, (_, video) in zip(films, told, strict=True):
        assert video["_type"] == "video-file" and video["size"] == film.stat().st_size
        assert video["sha256"] == hashlib.sha256(film.read_bytes()).hexdigest()
        (copy,) = folder.glob(f"wandb/offline-run-*/files/{video['path']}")
        assert copy.read_bytes() == film.read_bytes()


def test_films_and_evaluations_change_nothing_in_the_training(folder: Path) -> None:
    quiet = ["wandb=off", "wandb.video_interval=0", "trainer.simulation.evaluate_interval=0"]
    filmed = run(folder.parent, 1536, "filmed")
    plain = run(folder.parent, 1536, "plain", *quiet)
    ours, theirs = (max((f / "checkpoints").glob("step-*")) / "model.safetensors" for f in (filmed, plain))
    assert (filmed / "videos" / "epoch-000002.mp4").exists() and not (plain / "videos").exists()
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_film_shows_the_whole_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GIF, which Pillow can count."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = load_config(ARGUMENTS).env
    player = Player(UniformPolicy(environment_spec(config)), torch.device("cpu"), greedy=False, seed=0)
    file = evaluation_film.film_episode(player, config, title="someone", stem=tmp_path / "videos" / "a")
    assert file == tmp_path / "videos" / "a.gif"
    with Image.open(file) as film:
        assert sum(1 for _ in ImageSequence.Iterator(film)) == 21, "20 steps and the start"
