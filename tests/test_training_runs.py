"""Whole trainings through the real command line, in processes of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from metta_train import load_config
from metta_train.assembly.policy import initial_policy
from metta_train.training.resources import usable_cores
from tests.cli.command import Finished, run_program, run_python

SMOKE = ["trainer=smoke", "wandb=off", "seed=3"]
# Several segments per row, endings inside segments (episodes of 20 steps, the first ones shorter), moving schedules.
BUSY = [
    "trainer.bptt_horizon=8",
    "trainer.num_envs=2",
    "trainer.batch_size=1536",
    "trainer.total_timesteps=4608",
    "env.max_steps=20",
]


def train(
    data_dir: Path, *arguments: str, program: Callable[..., Finished] = run_program, threads: int = 1
) -> Finished:
    """Run `metta-train` and insist that it succeeds."""
    environ = {"DATA_DIR": str(data_dir), "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "offline"}
    done = program(["-m", "metta_train", *arguments], data_dir, **environ)
    assert done.code == 0, done.err[-3000:]
    return done


def weights(data_dir: Path, run: str) -> bytes:
    """The model file of the newest checkpoint."""
    newest = max((data_dir / run / "checkpoints").glob("step-*"))
    return (newest / "model.safetensors").read_bytes()


def metrics(data_dir: Path, run: str) -> list[dict[str, float]]:
    """All epochs of metrics.jsonl."""
    return [json.loads(line) for line in (data_dir / run / "metrics.jsonl").read_text().splitlines()]


def timeless(records: list[dict[str, float]]) -> list[dict[str, float]]:
    """Without what depends on the clock."""
    clocks = ("timing_", "overview/sps", "metric/total_time", "metric/train_time")
    return [{key: value for key, value in record.items() if not key.startswith(clocks)} for record in records]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with the run `graph`, trained with agent=fast in a process that shares nothing with the others."""
    data_dir = tmp_path_factory.mktemp("runs")
    train(data_dir, "agent=fast", "run=graph", *SMOKE, *BUSY, program=run_python)
    return data_dir


def test_both_fast_agents_train_to_the_same_bytes(reference: Path) -> None:
    train(reference, "py_agent=fast", "run=hand", *SMOKE, *BUSY)
    assert weights(reference, "hand") == weights(reference, "graph")
    assert timeless(metrics(reference, "hand")) == timeless(metrics(reference, "graph"))


@pytest.mark.skipif(usable_cores() < 2, reason="the threads of the learner are no more than the cores")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_learners_train_both_agents_to_the_same_bytes(tmp_path: Path, precision: str) -> None:
    for agent, run in (("agent=fast", "graph"), ("py_agent=fast", "hand")):
        arguments = [agent, f"run={run}", *SMOKE, *BUSY, "trainer.minibatch_size=768", f"trainer.precision={precision}"]
        done = train(tmp_path, *arguments, program=run_python, threads=2)
        assert "2 processes learn" in done.err + done.out
    assert weights(tmp_path, "hand") == weights(tmp_path, "graph")
    assert timeless(metrics(tmp_path, "hand")) == timeless(metrics(tmp_path, "graph"))


def test_the_same_seed_trains_to_the_same_bytes_and_another_one_does_not(reference: Path) -> None:
    train(reference, "agent=fast", "run=again", *SMOKE, *BUSY)
    train(reference, "agent=fast", "run=other", *SMOKE, *BUSY, "seed=4")
    assert weights(reference, "again") == weights(reference, "graph")
    assert weights(reference, "other") != weights(reference, "graph")


def test_worker_processes_train_to_the_same_bytes(reference: Path) -> None:
    """One slice in two processes: the experience depends on seeds and actions alone."""
    train(reference, "agent=fast", "run=workers", *SMOKE, *BUSY, "trainer.num_workers=2", "trainer.async_factor=1")
    assert weights(reference, "workers") == weights(reference, "graph")


def test_the_weights_move_and_the_schedules_run(reference: Path) -> None:
    records = metrics(reference, "graph")
    assert [record["metric/agent_step"] for record in records] == [1536, 3072, 4608]
    rates = [record["hyperparameters/learning_rate"] for record in records]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
    clips = [record["hyperparameters/ppo_clip_coef"] for record in records]
    assert clips[0] > clips[-1]
    steps = sorted(folder.name for folder in (reference / "graph" / "checkpoints").iterdir())
    assert steps == ["step-000000003072", "step-000000004608"]
    assert len({(reference / "graph/checkpoints" / step / "model.safetensors").read_bytes() for step in steps}) == 2


def test_the_run_folder_tells_what_happened(reference: Path) -> None:
    folder = reference / "graph"
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["epoch"], status["agent_step"]) == ("done", 3, 4608)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["bptt_horizon"] == 8
    invocation = json.loads((folder / "invocations.jsonl").read_text().splitlines()[0])
    assert "agent=fast" in invocation["argv"]
    assert not list(reference.glob("outputs"))


def test_the_same_name_continues_from_the_newest_checkpoint(reference: Path) -> None:
    """Longer goal, same name: the counters, the metrics file and the optimizer go on."""
    train(reference, "agent=fast", "run=long", *SMOKE, *BUSY)
    result = train(reference, "agent=fast", "run=long", *SMOKE, *BUSY, "trainer.total_timesteps=6144")
    records = metrics(reference, "long")
    assert [record["metric/agent_step"] for record in records] == [1536, 3072, 4608, 6144]
    assert [record["metric/epoch"] for record in records] == [1, 2, 3, 4]
    assert "continu" in result.err
    assert len((reference / "long" / "invocations.jsonl").read_text().splitlines()) == 2


def test_a_finished_run_has_nothing_left_to_do(reference: Path) -> None:
    before = weights(reference, "graph"), (reference / "graph" / "metrics.jsonl").read_bytes()
    result = train(reference, "agent=fast", "run=graph", *SMOKE, *BUSY)
    assert (weights(reference, "graph"), (reference / "graph" / "metrics.jsonl").read_bytes()) == before
    assert "trainer.total_timesteps=9216" in result.out  # the command that would go on


def test_the_originals_mini_training_line(tmp_path: Path) -> None:
    """As in the original's README of the time, word for word."""
    train(
        tmp_path,
        "py_agent=fast",
        "run=t",
        "trainer.total_timesteps=5000",
        "trainer.num_workers=2",
        "trainer.checkpoint.checkpoint_interval=2500",
        "trainer.simulation.evaluate_interval=0",
        "wandb=off",
    )
    assert weights(tmp_path, "t")


def test_evaluation_weight_metrics_and_gradient_statistics_are_reported(tmp_path: Path) -> None:
    train(
        tmp_path,
        "agent=fast",
        "run=full",
        *SMOKE,
        *BUSY,
        "trainer.simulation.evaluate_interval=2",
        "trainer.simulation.num_episodes=2",
        "trainer.grad_mean_variance_interval=1",
        "agent.analyze_weights_interval=3",
        "trainer.profiler.interval_epochs=2",
    )
    first, second, third = metrics(tmp_path, "full")
    assert "eval_forage/score" not in first
    assert "eval_forage/score" in second
    assert {"grad/mean", "grad/variance", "grad/norm"} <= first.keys()
    layers = {key.split("/")[2] for key in third if key.startswith("weights/weight_norm/")}
    assert layers == {"cnn1", "cnn2", "fc1", "encoded_obs", "critic_1", "value", "actor_1"}
    assert not [key for key in second if key.startswith("weights/")]
    assert (tmp_path / "full" / "torch_traces" / "epoch-000002.json.gz").exists()


def test_a_warm_start_takes_weights_only(reference: Path) -> None:
    checkpoint = max((reference / "graph" / "checkpoints").glob("step-*"))
    # A learning rate so small that one epoch leaves the weights where the warm start put them.
    train(
        reference,
        "agent=fast",
        "run=warm",
        *SMOKE,
        *BUSY,
        f"trainer.initial_policy.uri=file://{checkpoint}",
        "trainer.total_timesteps=1536",
        "trainer.optimizer.learning_rate=1e-30",
        "trainer.hyperparameter_scheduler.learning_rate_schedule.min_value=null",
    )
    assert weights(reference, "warm") == weights(reference, "graph")
    assert metrics(reference, "warm")[0]["metric/agent_step"] == 1536


def test_first_weights_are_named_like_every_checkpoint(reference: Path) -> None:
    def first_weights(uri: str) -> Path | None:
        return initial_policy(load_config([f"data_dir={reference}", "run=x", f"trainer.initial_policy.uri={uri}"]))

    checkpoint = max((reference / "graph" / "checkpoints").glob("step-*"))
    assert first_weights("graph") == first_weights("graph:latest") == first_weights(str(checkpoint)) == checkpoint
    with pytest.raises(ValueError, match=r"uri=grap: no such folder of a checkpoint, and no run 'grap'.* mean graph"):
        first_weights("grap")
    with pytest.raises(ValueError, match="graph:1: the run has no checkpoint of that step"):
        first_weights("graph:1")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("setting", ["trainer.prioritized_experience_replay.prio_alpha=0.6", "trainer.precision=bf16"])
def test_other_ways_to_train_run_to_the_end(tmp_path: Path, optimizer: str, setting: str) -> None:
    """One epoch: a CPU that knows no bfloat16 multiplies in it ten times slower."""
    arguments = [*SMOKE, *BUSY, "trainer.total_timesteps=1536", f"trainer.optimizer.type={optimizer}", setting]
    train(tmp_path, "agent=fast", "run=x", *arguments)
    assert metrics(tmp_path, "x")[-1]["losses/entropy"] > 0


def test_gymnasium_is_learned(tmp_path: Path) -> None:
    """Nothing is tied to tokens: CartPole through agent=mlp, from about 20 to well over 100 steps per episode."""
    train(
        tmp_path,
        "agent=mlp",
        "env=gymnasium",
        "env.id=CartPole-v1",
        "run=cartpole",
        "wandb=off",
        "seed=1",
        "trainer.total_timesteps=60000",
        "trainer.num_envs=16",
        "trainer.bptt_horizon=32",
        "trainer.batch_size=1024",
        "trainer.minibatch_size=256",
        "trainer.update_epochs=4",
        "trainer.ppo.gamma=0.98",
        "trainer.ppo.gae_lambda=0.9",
        "trainer.ppo.clip_coef=0.2",
        "trainer.ppo.vf_clip_coef=10.0",
    )
    rewards = [record["overview/reward"] for record in metrics(tmp_path, "cartpole") if "overview/reward" in record]
    assert sum(rewards[:3]) / 3 < 40
    assert sum(rewards[-3:]) / 3 > 120
