"""Evaluation while training: suites, intervals, the best checkpoint, and a resume that changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metta_train import load_config
from metta_train.assembly.run import train
from metta_train.cli.eval import main as metta_eval
from metta_train.specs.config_errors import ConfigError
from metta_train.training import checkpoints
from metta_train.training.checkpoint_listing import best_checkpoint, list_checkpoints
from metta_train.training.recent_rewards import EPOCHS
from metta_train.training.stopping import StopRequest, StopRequested

SUITE = """\
episodes: 9
seed: 5
environments:
  short: [env=gymnasium, env.id=CartPole-v1, env.max_steps=20]
  long: [env=gymnasium, env.id=CartPole-v1, env.max_steps=60]
"""
EPOCH_STEPS = 32
BASE = [
    "agent=mlp",
    "env=gymnasium",
    "env.id=CartPole-v1",
    "trainer=smoke",
    "wandb=off",
    "trainer.bptt_horizon=8",
    "trainer.num_envs=4",
    "trainer.async_factor=1",
    f"trainer.batch_size={EPOCH_STEPS}",
    f"trainer.minibatch_size={EPOCH_STEPS}",
    f"trainer.total_timesteps={8 * EPOCH_STEPS}",
    "trainer.optimizer.learning_rate=0.02",
]
EVALUATED = [*BASE, "trainer.simulation.evaluate_interval=2", "trainer.simulation.num_episodes=5"]
CLOCKS = ("_time", "sps", "timing", "_vs_total")


@pytest.fixture(autouse=True)
def _suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "eval").mkdir(parents=True)
    (tmp_path / "conf" / "eval" / "poles.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "runs"))


def run(name: str, *overrides: str, stop_after: int | None = None) -> Path:
    """Train; the folder of the run."""
    config = load_config([f"run={name}", *overrides])
    stop = StopRequest()
    epochs = train(config, ["metta-train", f"run={name}"], stop)
    try:
        for record in epochs:
            if record.epoch == stop_after:
                stop.request("a test", patient=True)
    except StopRequested:
        assert stop_after is not None
    return config.data_dir / name


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_clocks(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if not any(word in k for word in CLOCKS)} for line in metrics(folder)]


def metadata(folder: Path) -> dict[int, dict[str, Any]]:
    """By epoch."""
    states = [json.loads((path / "state.json").read_text()) for path in (folder / "checkpoints").iterdir()]
    return {state["progress"]["epoch"]: state["metadata"] for state in states}


def test_a_suite_is_played_told_and_saved_and_metta_eval_finds_the_same_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run("mine", *EVALUATED, "trainer.simulation.suite=poles")
    told = capsys.readouterr()
    assert "evaluation at epoch 2: score" in told.err and "evaluation at epoch 8: score" in told.err
    assert "metta-eval mine --random" in told.out and "metta-play mine" in told.out
    lines = metrics(folder)
    evaluated = [line["metric/epoch"] for line in lines if "eval_poles/long/iqm" in line]
    assert evaluated == [2, 4, 6, 8]
    last = lines[-1]
    for environment in ("short", "long"):
        for statistic in ("mean", "median", "iqm"):
            low, value, high = (last[f"eval_poles/{environment}/{statistic}{end}"] for end in ("_low", "", "_high"))
            assert low <= value <= high
    assert last["eval_poles/score"] == (last["eval_poles/short/mean"] + last["eval_poles/long/mean"]) / 2
    saved = metadata(folder)[8]
    assert (saved["score"], saved["scored_by"]) == (last["eval_poles/score"], "suite poles")
    for path in checkpoints.checkpoint_folders(folder / "checkpoints"):
        checkpoints.verify(path)

    assert metta_eval(["mine:latest", "--suite", "poles", "--episodes", "5", "--json"]) == 0
    found = {e["environment"]: e["score"] for e in json.loads(capsys.readouterr().out)["evaluations"]}
    for environment, score in found.items():
        for statistic in ("mean", "median", "iqm"):
            assert score[statistic]["value"] == last[f"eval_poles/{environment}/{statistic}"]
            assert score[statistic]["low"] == last[f"eval_poles/{environment}/{statistic}_low"]


def test_without_a_suite_the_runs_own_environment_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("own", *EVALUATED)
    capsys.readouterr()
    assert metta_eval(["own", "--episodes", "5", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["evaluations"]
    last = metrics(folder)[-1]
    assert found["score"]["iqm"]["value"] == last["eval_CartPole-v1/iqm"]
    assert found["score"]["mean"]["value"] == last["eval_CartPole-v1/score"] == metadata(folder)[8]["score"]
    assert metadata(folder)[8]["scored_by"] == "environment CartPole-v1"


def test_the_best_is_kept_by_the_evaluation() -> None:
    folder = run("best", *EVALUATED, "trainer.simulation.suite=poles", "trainer.checkpoint.keep_every=0")
    scores = {
        line["metric/epoch"]: line["eval_poles/score"]
        for line in metrics(folder)
        if line["metric/epoch"] in (2, 4, 6, 8)
    }
    best = best_checkpoint(list_checkpoints(folder / "checkpoints"))
    assert best is not None and best.score == max(scores.values())
    assert scores[best.epoch or 0] == best.score
    assert len(metadata(folder)) <= 4


def test_a_run_that_goes_on_evaluates_and_ends_as_if_nothing_had_happened() -> None:
    wanted = [*EVALUATED, "trainer.simulation.suite=poles", "tensorboard=true"]
    whole = run("whole", *wanted)
    run("stopped", *wanted, stop_after=5)
    stopped = run("stopped", *wanted)
    assert without_clocks(stopped) == without_clocks(whole)
    assert {5} == metadata(stopped).keys() - metadata(whole).keys(), "where it was stopped"
    assert metadata(stopped)[8] == metadata(whole)[8]
    for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors"):
        ours, theirs = (max((f / "checkpoints").iterdir()) / name for f in (stopped, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    assert event_steps(stopped) == event_steps(whole) == [EPOCH_STEPS * epoch for epoch in range(1, 9)]


def event_steps(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars("losses/entropy")]


def test_evaluation_changes_nothing_in_the_training() -> None:
    with_it, without = run("with", *EVALUATED, "trainer.simulation.suite=poles"), run("without", *BASE)
    ours, theirs = (max((f / "checkpoints").iterdir()) / "model.safetensors" for f in (with_it, without))
    assert ours.read_bytes() == theirs.read_bytes()


def test_without_evaluation_the_score_is_the_reward_of_several_epochs() -> None:
    folder = run("plain", *BASE, f"trainer.total_timesteps={30 * EPOCH_STEPS}", "trainer.checkpoint.keep_every=2")
    lines = metrics(folder)
    assert max(line["overview/reward"] for line in lines if "overview/reward" in line) > 0
    for epoch, saved in metadata(folder).items():
        rewards = [line["overview/reward"] for line in lines[:epoch] if "overview/reward" in line]
        assert saved["recent_rewards"] == rewards[-EPOCHS:]
        assert saved["score"] == (pytest.approx(sum(rewards[-EPOCHS:]) / len(rewards[-EPOCHS:])) if rewards else None)
    assert sum("overview/reward" in line for line in lines) > EPOCHS, "the window was full"


def test_a_suite_that_nobody_plays_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    run("silent", *BASE, "trainer.simulation.suite=poles", f"trainer.total_timesteps={EPOCH_STEPS}")
    assert "trainer.simulation.suite is not played" in capsys.readouterr().err


def test_a_suite_that_does_not_exist_or_fit_is_a_mistake_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.simulation\.suite=pole: needs one of .*; did you mean poles\?"):
        load_config([*EVALUATED, "trainer.simulation.suite=pole"])
    with pytest.raises(ValueError, match=r"trainer\.simulation\.suite=forage: its environment forage cannot be played"):
        run("misfit", *EVALUATED, "trainer.simulation.suite=forage")
    assert not (tmp_path / "runs").exists()
