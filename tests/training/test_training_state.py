"""What is kept between two epochs is a copy, and comes back whole."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from metta_train.envs.episode_log import DIGEST_BYTES, VectorSnapshot
from metta_train.policies.weights import WeightAnchors
from metta_train.specs.records import EvaluationScores, Progress
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.checkpoints import load
from metta_train.training.optimizers import build_optimizer
from metta_train.training.random_states import (
    global_random_states,
    restore_global_generators,
    seed_global_generators,
)
from metta_train.training.rollout import RowMemory
from metta_train.training.training_state import Standing, TrainingState, envs_of, memory_of, standing_of
from tests.fakes.clock_env import ClockEnv
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy
from tests.training.trainer_config import trainer_config

CPU = torch.device("cpu")
STANDING = Standing(
    progress=Progress(epoch=7, agent_step=700, optimizer_steps=28, train_time=1.5, total_time=2.5),
    evaluation=EvaluationScores("clock", 0.25, 4, 6),
    latest_saved_epoch=5,
    reward=1.5,
)


def a_state(seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    policy = SmallRecurrentPolicy(ClockEnv((3, 5), (True, False)).spec)
    return TrainingState(
        policy=policy,
        optimizer=build_optimizer(trainer_config().optimizer, policy),
        anchors=WeightAnchors.of(policy),
        generators={"sampling": torch.Generator().manual_seed(seed)},
        agent="small",
        seed=seed,
        data_seed=99,
    )


def a_memory(state: TrainingState, rows: int = 4) -> RowMemory:
    tensors = tuple(torch.randn_like(t) for t in state.policy.initial_state(rows).tensors)
    return RowMemory(torch.arange(rows) % 2 == 0, RecurrentState(tensors))


ENVS = VectorSnapshot(
    episodes=np.array([3, 0]),
    lengths=np.array([2, -1]),
    actions=np.array([[1, 2], [0, 1]], np.uint8),
    digests=np.arange(2 * DIGEST_BYTES, dtype=np.uint8).reshape(2, -1),
)


def test_everything_comes_back(tmp_path: Path) -> None:
    state = a_state()
    memory = a_memory(state)
    checkpoint = load(state.save(tmp_path / "c", state.keep(STANDING, memory), ENVS, "wandb-id"))
    assert standing_of(checkpoint) == STANDING
    envs = envs_of(checkpoint)
    assert envs is not None
    for name in ("episodes", "lengths", "actions", "digests"):
        np.testing.assert_array_equal(getattr(envs, name), getattr(ENVS, name))
    fresh = RowMemory(torch.ones(4, dtype=torch.bool), state.policy.initial_state(4))
    back = memory_of(checkpoint, fresh, torch.zeros(4, dtype=torch.bool))
    assert torch.equal(back.resets, memory.resets)
    assert all(torch.equal(a, b) for a, b in zip(back.state.tensors, memory.state.tensors, strict=True))
    other = a_state(seed=1)
    other.restore(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(other.policy.parameters(), state.policy.parameters(), strict=True))
    assert torch.equal(other.generators["sampling"].get_state(), state.generators["sampling"].get_state())


def test_rows_whose_env_opened_a_new_episode_forget(tmp_path: Path) -> None:
    state = a_state()
    memory = a_memory(state)
    checkpoint = load(state.save(tmp_path / "c", state.keep(STANDING, memory), ENVS, None))
    fresh = RowMemory(torch.ones(4, dtype=torch.bool), state.policy.initial_state(4))
    opened = torch.tensor([False, False, False, True])
    back = memory_of(checkpoint, fresh, opened)
    assert back.resets.tolist() == [True, False, True, True]
    for tensor, before in zip(back.state.tensors, memory.state.tensors, strict=True):
        assert not tensor[3].any() and torch.equal(tensor[:3], before[:3])
    # Another number of rows: all of them are new.
    more = RowMemory(torch.ones(6, dtype=torch.bool), state.policy.initial_state(6))
    assert memory_of(checkpoint, more, torch.ones(6, dtype=torch.bool)) is more


def test_what_is_kept_does_not_change_with_the_training() -> None:
    state = a_state()
    kept = state.keep(STANDING, a_memory(state))
    before = {name: tensor.clone() for name, tensor in kept.model.items()}
    stream = kept.random_states["sampling"].clone()
    with torch.no_grad():
        for parameter in state.policy.parameters():
            parameter.add_(1.0)
    for tensor in (*state.optimizer.state_tensors().values(), *state.anchors.tensors().values()):
        tensor.fill_(7.0)
    torch.rand(3, generator=state.generators["sampling"])
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.model.items())
    assert not any((tensor == 7.0).all() for tensor in kept.optimizer.values())
    assert torch.equal(kept.random_states["sampling"], stream)


def test_a_stream_of_another_kind_of_device_starts_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = a_state()
    kept = state.keep(STANDING, a_memory(state))
    short = {**kept.random_states, "sampling": torch.zeros(16, dtype=torch.uint8)}
    object.__setattr__(kept, "random_states", short)
    checkpoint = load(state.save(tmp_path / "c", kept, ENVS, None))
    a_state(seed=1).restore(checkpoint)
    assert "does not go on to the bit" in caplog.text


def test_the_generators_of_nobody_come_back() -> None:
    seed_global_generators(5)
    torch.rand(3), np.random.rand(2), random.random()  # pyright: ignore[reportUnusedExpression]  # moves them
    states = global_random_states(CPU)
    expected = (torch.rand(4).tolist(), np.random.rand(4).tolist(), [random.random() for _ in range(4)])
    seed_global_generators(6)
    restore_global_generators(states, CPU)
    assert (torch.rand(4).tolist(), np.random.rand(4).tolist(), [random.random() for _ in range(4)]) == expected
    seed_global_generators(5)
    again = torch.rand(3)
    seed_global_generators(5)
    assert torch.equal(again, torch.rand(3))
