"""Checkpoints interchange: a run that changes hands between the two fast agents, through the real command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.command import Finished, metta_train

# Endings inside segments, several segments per row, moving schedules, weight operations.
SETTINGS = [
    "run=x",
    "trainer=smoke",
    "wandb=off",
    "seed=5",
    "trainer.bptt_horizon=8",
    "trainer.num_envs=2",
    "trainer.batch_size=768",
    "env.max_steps=20",
    "trainer.ppo.l2_init_loss_coef=0.01",
    "trainer.checkpoint.checkpoint_interval=1",
    "trainer.checkpoint.wandb_checkpoint_interval=0",
]
SOONER, LATER = 1536, 3072
FILES = ("model.safetensors", "optimizer.safetensors", "state.safetensors")


def train(data_dir: Path, agent: str, steps: int, *arguments: str) -> Finished:
    goal = f"trainer.total_timesteps={steps}"
    return metta_train(agent, *SETTINGS, goal, *arguments, folder=data_dir, DATA_DIR=str(data_dir))


def content(data_dir: Path, steps: int) -> list[bytes]:
    folder = data_dir / "x" / "checkpoints" / f"step-{steps:012d}"
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data_dir per agent, with the run x trained halfway."""
    folders = {}
    for agent in ("agent=fast", "py_agent=fast"):
        folders[agent] = tmp_path_factory.mktemp("begun")
        result = train(folders[agent], agent, SOONER)
        assert result.code == 0, result.err[-2000:]
    return folders


@pytest.mark.parametrize(("first", "second"), [("agent=fast", "py_agent=fast"), ("py_agent=fast", "agent=fast")])
def test_a_run_that_changes_hands_is_byte_identical_to_one_that_does_not(
    begun: dict[str, Path], tmp_path: Path, first: str, second: str
) -> None:
    stays, changes = (shutil.copytree(begun[first], tmp_path / name) for name in ("stays", "changes"))
    for data_dir, agent in ((stays, first), (changes, second)):
        result = train(data_dir, agent, LATER)
        assert result.code == 0, result.err[-2000:]
        assert "continuing from" in result.err
    assert content(stays, LATER) == content(changes, LATER)
    assert content(stays, LATER)[0] != content(stays, SOONER)[0]


def test_an_agent_that_is_another_network_cannot_continue_a_run(begun: dict[str, Path], tmp_path: Path) -> None:
    data_dir = shutil.copytree(begun["py_agent=fast"], tmp_path / "data")
    config = (data_dir / "x" / "config.yaml").read_bytes()
    result = train(data_dir, "agent=fast", LATER, "agent.components.critic_1.nonlinearity=nn.ReLU")
    assert result.code == 2
    lines = [line for line in result.err.splitlines() if "another network" in line]
    assert len(lines) == 1 and "likely cause: relu instead of tanh after critic_1" in lines[0]
    assert (data_dir / "x" / "config.yaml").read_bytes() == config
    assert not (data_dir / "x" / "checkpoints" / f"step-{LATER:012d}").exists()
