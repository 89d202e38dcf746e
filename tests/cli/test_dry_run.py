"""`metta-train --dry-run`: says what a training would be, exits as the training would, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metta_train import build_policy, load_config
from metta_train.cli import train
from metta_train.cli.exit_codes import BAD_USAGE, DONE, WORKERS
from metta_train.envs.build import environment_spec
from metta_train.training import memory
from metta_train.training.batching import plan_batches
from metta_train.training.resources import Resources
from tests.cli.command import metta_train

SMALL = ["trainer=smoke", "wandb=off", "env.task.rooms=2", "env.max_steps=20"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert train.main(["--dry-run", *arguments]) == DONE
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_it_tells_the_plan_the_parameters_and_the_memory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dry_run(
        capsys, *SMALL, "run=mine", "trainer.num_envs=6", "trainer.batch_size=768", "trainer.minibatch_size=384"
    )
    assert "mine: would begin in train_dir/mine" in text
    assert "forage: 8 agents, 48 tokens" in text
    assert "48 agents x 16 steps = 768 agent steps per epoch" in text
    assert "48 of 16 steps" in text
    assert "2 x 2 gradient steps of 384" in text
    assert "3 for 2,304 agent steps" in text
    layers = {name: int(n.replace(",", "")) for name, n in re.findall(r"^  (\w+) +([\d,]+)$", text, re.MULTILINE)}
    assert layers.pop("all") == sum(layers.values()) and layers["core"] == 2 * (128 + 128 + 2) * 512
    # With a thousands separator: the process of many tests can have more than 1,000 MiB.
    sizes = {name: float(n.replace(",", "")) for name, n in re.findall(r"^  (\w+) +([\d,.]+) MiB", text, re.MULTILINE)}
    parts = ("network", "rollout", "minibatch", "activations")
    assert sizes["together"] == pytest.approx(sum(sizes[part] for part in parts), abs=0.3)
    assert all(sizes[part] > 0 for part in parts) and sizes["process"] > 50
    assert list(here.iterdir()) == []


def test_the_expected_activations_are_those_of_a_gradient_step() -> None:
    """Weighed on few segments, told for many."""
    for agent in ("agent=fast", "py_agent=fast"):
        config = load_config([agent, "trainer=smoke", "trainer.num_envs=4", "trainer.precision=bf16"])
        spec = environment_spec(config.env)
        plan = plan_batches(config.trainer, spec, Resources("cpu", cores=1, threads=1, free_memory=2**33))
        policy = build_policy(config, spec)
        assert plan.piece_segments > 4 * memory.MEASURED_SEGMENTS
        whole = memory._activations_of(policy, plan, plan.piece_segments)
        assert memory.expected_memory(policy, spec, plan, "adam").activations == pytest.approx(whole, rel=0.05)


def test_a_sweep_rehearses_every_value(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = dry_run(capsys, "-m", *SMALL, "agent=fast", "seed=1,2", "trainer.bptt_horizon=8,16")
    assert text.count("Of the sweep: ") == 2
    assert re.search(r"seed=1 .*trainer.bptt_horizon=8", text) and re.search(r"seed=2 .*trainer.bptt_horizon=16", text)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trainer.batchsize=3"], BAD_USAGE, "did you mean trainer.batch_size?"),
        (["agent=mlp"], BAD_USAGE, "reads box observations"),
        (["trainer.batch_size=112"], BAD_USAGE, "trainer.batch_size=112"),
        (["env=mettagrid", "env.config=nope.yaml"], BAD_USAGE, "nope.yaml"),
        (["trainer.initial_policy.uri=nope"], BAD_USAGE, "uri=nope: no such folder of a checkpoint"),
        (["run=../x"], BAD_USAGE, "run="),
        (["trainer.num_workers=1", "env.start_timeout=0.001"], WORKERS, "env.start_timeout"),
    ],
)
def test_it_exits_as_the_training_would(
    arguments: list[str], code: int, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for word in SMALL if not word.startswith("env.task") or "env=mettagrid" not in arguments]
    assert train.main(["--dry-run", *given, *arguments]) == code
    printed = capsys.readouterr()
    assert said in printed.err and printed.out == ""
    assert list(here.iterdir()) == []


def test_a_run_that_exists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it would go on, and that it would be refused with another network."""
    line = [*SMALL, "trainer.total_timesteps=96", "run=mine"]
    done = metta_train(*line, folder=here)
    assert done.code == DONE, done.err
    before = sorted((path, path.stat().st_mtime_ns) for path in here.rglob("*"))
    steps = re.search(
        r"would go on at ([\d,]+) agent steps", text := dry_run(capsys, *line, "trainer.total_timesteps=9600")
    )
    assert steps is not None
    assert f"{9600 - int(steps[1].replace(',', '')):,} agent steps" in text
    assert "delete what is in" in dry_run(capsys, *line, "restart=overwrite")
    other = ["--dry-run", *line, "agent.components.fc1.nn_params.out_features=64"]
    assert train.main(other) == BAD_USAGE
    assert "out_features: 128 -> 64" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in here.rglob("*")) == before
