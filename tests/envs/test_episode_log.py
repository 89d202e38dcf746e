"""The log against a plain list of actions per env."""

from __future__ import annotations

import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.envs import episode_log
from metta_train.envs.episode_log import CANNOT_REPLAY, DIGEST_BYTES, EpisodeLog, EpisodePoint

ENVS, AGENTS = 3, 2
DIGESTS = np.zeros((ENVS, DIGEST_BYTES), np.uint8)


# Envs 1 and 2 are one slice, env 0 another.
@given(
    st.lists(
        st.sampled_from(["act", "act", "act", "act0", "act1", "end", "end0", "end1", "end2", "put1", "mark"]),
        min_size=40,
        max_size=80,
    )
)
def test_at_mark_tells_of_the_mark_whatever_happened_since(events: list[str]) -> None:
    with patch.object(episode_log, "FIRST_CAPACITY", 2):  # so that it grows often
        log = EpisodeLog(ENVS, AGENTS, num_actions=10)
    log.start()
    log.mark()
    episodes, actions = [0] * ENVS, [[] for _ in range(ENVS)]
    marked_episodes, marked_actions = list(episodes), [list(own) for own in actions]
    for number, event in enumerate(events):
        if event.startswith("act"):
            step = np.arange(ENVS * AGENTS, dtype=np.int32) * (number + 1) % 10
            for envs in {"act": [range(1, ENVS), range(1)], "act0": [range(1)], "act1": [range(1, ENVS)]}[event]:
                log.acted(envs, step[envs.start * AGENTS : envs.stop * AGENTS])
                for env in envs:
                    actions[env].append(step[env * AGENTS : (env + 1) * AGENTS].tolist())
        elif event == "put1":
            before = np.arange(number % 5 * AGENTS, dtype=np.uint8).reshape(-1, AGENTS)
            log.put(EpisodePoint(1, number, before))
            log.mark()
            episodes[1], actions[1] = number, before.tolist()
            marked_episodes, marked_actions = list(episodes), [list(own) for own in actions]
        elif event == "mark":
            log.mark()
            marked_episodes, marked_actions = list(episodes), [list(own) for own in actions]
        else:
            for env in range(ENVS) if event == "end" else [int(event[-1])]:
                log.ended(env)
                episodes[env] += 1
                actions[env] = []
    snapshot = log.at_mark(DIGESTS)
    assert snapshot.episodes.tolist() == marked_episodes
    assert snapshot.lengths.tolist() == [len(own) for own in marked_actions]
    assert snapshot.actions.dtype == np.uint8
    for env in range(ENVS):
        assert snapshot.actions_of(env).tolist() == marked_actions[env]
        assert log.present(env) == (episodes[env], len(actions[env]))


def test_episodes_longer_than_the_first_capacity_are_kept_whole() -> None:
    log = EpisodeLog(1, 1, num_actions=1000)
    log.start()
    for step in range(300):
        log.acted(range(1), np.array([step], np.int32))
    log.mark()
    snapshot = log.at_mark(DIGESTS[:1])
    assert snapshot.actions.dtype == np.int32
    assert snapshot.actions_of(0)[:, 0].tolist() == list(range(300))


def test_a_log_that_nobody_marks_stays_small_and_tells_of_the_first_mark() -> None:
    agents = 64
    log = EpisodeLog(2, agents, num_actions=256)
    log.start()
    for step in range(40):
        log.acted(range(2), np.repeat(np.array([step, 100 + step], np.int32), agents))
    log.mark()
    later = np.full(2 * agents, 7, np.int32)
    tracemalloc.start()
    try:
        for step in range(20_000):
            log.acted(range(2), later)
            if step % 50 == 49:
                log.ended(step // 50 % 2)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 200_000  # all of its 20,000 steps are 2,560,000 bytes
    snapshot = log.at_mark(DIGESTS[:2])
    assert snapshot.actions_of(0)[:, 0].tolist() == list(range(40))
    assert snapshot.actions_of(1)[:, 0].tolist() == list(range(100, 140))


def test_an_episode_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_log, "MAX_STEPS", episode_log.FIRST_CAPACITY)
    log = EpisodeLog(2, 1, num_actions=2)
    log.start()
    for step in range(episode_log.FIRST_CAPACITY + 5):
        log.acted(range(2), np.array([step % 2, 1], np.int32))
        if step == 9:
            log.ended(1)
    log.mark()
    snapshot = log.at_mark(DIGESTS[:2])
    assert snapshot.lengths.tolist() == [CANNOT_REPLAY, episode_log.FIRST_CAPACITY - 5]
    assert len(snapshot.actions_of(0)) == 0
    assert len(snapshot.actions_of(1)) == episode_log.FIRST_CAPACITY - 5


def test_a_point_puts_an_env_into_an_episode() -> None:
    log = EpisodeLog(1, 2, num_actions=5)
    log.put(EpisodePoint(0, 7, np.full((100, 2), 3, np.uint8)))
    log.acted(range(1), np.array([1, 2], np.int32))
    log.mark()
    snapshot = log.at_mark(DIGESTS[:1])
    assert (snapshot.episodes.tolist(), snapshot.lengths.tolist()) == ([7], [101])
    assert snapshot.actions_of(0)[-1].tolist() == [1, 2]


def test_a_long_point_takes_nothing_from_an_env_that_is_further_on() -> None:
    log = EpisodeLog(2, 1, num_actions=256)
    for step in range(5):
        log.acted(range(1), np.array([step + 1], np.int32))
    log.put(EpisodePoint(1, 0, np.full((episode_log.FIRST_CAPACITY + 1, 1), 9, np.uint8)))
    log.mark()
    snapshot = log.at_mark(DIGESTS[:2])
    assert snapshot.actions_of(0)[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert snapshot.actions_of(1)[:, 0].tolist() == [9] * (episode_log.FIRST_CAPACITY + 1)


def test_a_point_beyond_what_is_kept_is_given_up_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_log, "MAX_STEPS", 2 * episode_log.FIRST_CAPACITY)
    log = EpisodeLog(2, 1, num_actions=5)
    log.put(EpisodePoint(0, 4, np.full((2 * episode_log.FIRST_CAPACITY + 1, 1), 3, np.uint8)))
    log.put(EpisodePoint(1, 5, np.full((2 * episode_log.FIRST_CAPACITY, 1), 2, np.uint8)))
    log.mark()
    snapshot = log.at_mark(DIGESTS[:2])
    assert snapshot.lengths.tolist() == [CANNOT_REPLAY, 2 * episode_log.FIRST_CAPACITY]
    assert snapshot.actions_of(1)[:, 0].tolist() == [2] * 2 * episode_log.FIRST_CAPACITY
    assert log.present(0) == (4, 2 * episode_log.FIRST_CAPACITY + 1)


def test_another_number_of_envs_opens_new_episodes() -> None:
    log = EpisodeLog(2, 1, num_actions=5)
    log.start()
    log.acted(range(2), np.array([1, 2], np.int32))
    log.ended(1)
    log.mark()
    resized = log.at_mark(DIGESTS[:2]).without_actions(3)
    assert resized.episodes.tolist() == [0, 1, -1]
    assert resized.lengths.tolist() == [CANNOT_REPLAY] * 3
