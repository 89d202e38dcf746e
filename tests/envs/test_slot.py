"""Same-step resets, seeds, records, and the random first length."""

from __future__ import annotations

import numpy as np
import pytest

from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.slot import EnvSlot
from metta_train.specs.records import EpisodeRecord
from tests.fakes.counting_environment import CountingEnvironment


class _Slot:
    def __init__(
        self, environment: CountingEnvironment, *, slot: int = 0, seed: int = 7, rank: int = 0, desync: bool = False
    ):
        self.environment = environment
        size = RowBuffers.num_bytes(environment.spec, slot + 1)
        self.rows = RowBuffers.over(bytearray(size), environment.spec, slot + 1)
        self.buffers = self.rows.of_env(slot)
        self.final = self.rows.final_observations[self.rows.env_rows(slot)]
        self.slot = EnvSlot(
            environment, self.buffers, self.final, slot=slot, seed=seed, rank=rank, desync_episodes=desync
        )

    def step(self, first: int, second: int) -> EpisodeRecord | None:
        return self.slot.step(np.array([first, second], np.int32))


@pytest.mark.parametrize("truncates", [False, True])
def test_the_ending_step_shows_the_next_episode_and_keeps_the_old_one(truncates: bool) -> None:
    env = _Slot(CountingEnvironment(2, truncates=truncates))
    env.slot.reset()
    assert env.buffers.observations.tolist() == [[1, 0], [1, 0]]
    assert env.step(0, 1) is None
    assert env.buffers.rewards.tolist() == [10, 11]
    record = env.step(1, 1)
    # Returns: agent 0 earned 10 + 21, agent 1 earned 11 + 21; their mean is 31.5.
    assert record == EpisodeRecord(
        env=0, length=2, reward=31.5, truncated=truncates, shortened=False, stats={"game/steps": 2.0}
    )
    assert env.final.tolist() == [[1, 2], [1, 2]]
    assert env.buffers.observations.tolist() == [[2, 0], [2, 0]]
    assert env.buffers.rewards.tolist() == [21, 21]
    assert env.buffers.terminations.tolist() == [not truncates] * 2
    assert env.buffers.truncations.tolist() == [truncates] * 2
    assert env.step(0, 0) is None
    assert not env.buffers.terminations.any() and not env.buffers.truncations.any()
    record = env.step(0, 0)
    assert record is not None and record.reward == 30.0  # the sum starts again: 10 + 20


def test_every_episode_of_every_slot_has_its_own_seed() -> None:
    seeds: list[int] = []
    for rank in range(2):
        for slot in range(3):
            env = _Slot(CountingEnvironment(1, truncates=True), slot=slot, rank=rank)
            env.slot.reset()
            for _ in range(20):
                env.step(0, 0)
            seeds += env.environment.seeds
    assert len(seeds) == 2 * 3 * 21
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_reset_starts_the_stream_again() -> None:
    env = _Slot(CountingEnvironment(1, truncates=True))
    env.slot.reset()
    env.step(0, 0)
    env.slot.reset()
    env.step(0, 0)
    first, second, third, fourth = env.environment.seeds
    assert (first, second) == (third, fourth)


def test_another_seed_is_another_stream() -> None:
    one, other = (
        _Slot(CountingEnvironment(1, truncates=True), seed=7),
        _Slot(CountingEnvironment(1, truncates=True), seed=8),
    )
    one.slot.reset()
    other.slot.reset()
    assert one.environment.seeds != other.environment.seeds


def test_the_first_episode_is_cut_at_a_random_step_and_only_the_first() -> None:
    lengths = set()
    for slot in range(12):
        env = _Slot(CountingEnvironment(50, truncates=False, limit=50), slot=slot, desync=True)
        env.slot.reset()
        records = [record for _ in range(100) if (record := env.step(0, 0)) is not None]
        first, second = records[:2]
        assert 1 <= first.length <= 50
        assert first.shortened == first.truncated == (first.length < 50)  # the cut is a truncation, the end is not
        assert second.length == 50 and not second.shortened and not second.truncated
        lengths.add(first.length)
    assert len(lengths) > 6


def test_without_a_known_limit_nothing_is_cut() -> None:
    env = _Slot(CountingEnvironment(5, truncates=False), desync=True)
    env.slot.reset()
    records = [env.step(0, 0) for _ in range(5)]
    assert records[:4] == [None] * 4
    assert records[4] is not None and not records[4].shortened
