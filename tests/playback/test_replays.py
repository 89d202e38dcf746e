"""MettaGrid replays read back: what was played is what is seen again."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metta_train.playback.moments import Moment
from metta_train.playback.replays import MAX_BYTES, read_replay
from metta_train.reporting.storage import StorageError
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.scene import Scene
from tests.playback.test_episodes import source


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Moment], Path]:
    """An episode as it was played, and its replay."""
    file = tmp_path_factory.mktemp("replays") / "mine.json.z"
    one = source(greedy=False, recording=True)
    moments = list(one.moments(1))
    file.write_bytes(one.replay())
    return moments, file


def test_every_step_is_seen_again(episode: tuple[list[Moment], Path]) -> None:
    moments, file = episode
    replay = read_replay(file)
    assert (replay.cast.policy, replay.cast.environment, replay.cast.num_agents) == ("mine", "forage", 4)
    assert (replay.cast.window, replay.cast.limit, replay.cast.how) == ((11, 11), 12, "replay")
    again = list(replay.moments(1))
    assert [moment.step for moment in again] == list(range(1, 13)), "the moment before the first step is in no replay"
    for was, now in zip(moments[1:], again, strict=True):
        assert isinstance(was.scene, Scene) and isinstance(now.scene, Scene)
        assert now.scene.walls == was.scene.walls
        assert sorted(now.scene.things, key=str) == sorted(was.scene.things, key=str)
        np.testing.assert_array_equal(now.rewards, was.rewards)
        np.testing.assert_allclose(now.totals, was.totals)
        assert (now.decision is None) == (was.decision is None)
        if was.decision is not None and now.decision is not None:
            np.testing.assert_array_equal(now.decision.actions, was.decision.actions)
            for theirs, ours in (
                (now.decision.probabilities, was.decision.probabilities),
                (now.decision.values, was.decision.values),
            ):
                assert theirs is not None and ours is not None
                np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert list(replay.moments(1))[-1].score == again[-1].score, "from the start again"
    assert replay.replay() == file.read_bytes()


def packed(data: object) -> bytes:
    return zlib.compress(json.dumps(data).encode())


def test_a_replay_of_others_has_no_probabilities(episode: tuple[list[Moment], Path], tmp_path: Path) -> None:
    data = json.loads(zlib.decompress(episode[1].read_bytes()))
    for thing in data["objects"]:
        thing.pop("policy_infos", None)
    file = tmp_path / "theirs.json.z"
    file.write_bytes(packed(data))
    moment = next(read_replay(file).moments(1))
    assert moment.decision is not None
    assert moment.decision.probabilities is None and moment.decision.values is None
    assert moment.decision.actions.shape == (4,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "is no MettaGrid replay"),
        (zlib.compress(b"\xff\xfe"), "is no MettaGrid replay"),
        (packed([1]), "holds a list"),
        (packed({"version": 4}), "KeyError"),
        (packed({"map_size": [0, 3], "num_agents": 1, "max_steps": 3, "action_names": ["a"], "objects": []}), "no "),
        (zlib.compress(b"[" * 100_000), "is no MettaGrid replay"),
    ],
)
def test_other_files_are_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json.z"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        read_replay(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BYTES <= 1 << 30
    monkeypatch.setattr("metta_train.playback.replays.MAX_BYTES", 1000)
    file = tmp_path / "x.json.z"
    file.write_bytes(zlib.compress(b" " * 100_000))
    with pytest.raises(ConfigError, match="larger than 1000 bytes"):
        read_replay(file)


def damaged(data: dict[str, Any], change: str) -> None:
    agent = next(thing for thing in data["objects"] if "agent_id" in thing)
    match change:
        case "place":
            agent["location"] = "here"
        case "number":
            agent["agent_id"] = 99
        case "item":
            agent["inventory"] = [[57, 1]]
        case "missing":
            del agent["location"]


@pytest.mark.parametrize("change", ["place", "number", "item", "missing"])
def test_a_damaged_object_is_told_of(change: str, episode: tuple[list[Moment], Path], tmp_path: Path) -> None:
    data = json.loads(zlib.decompress(episode[1].read_bytes()))
    damaged(data, change)
    file = tmp_path / "x.json.z"
    file.write_bytes(packed(data))
    with pytest.raises(ConfigError, match="a damaged replay"):
        list(read_replay(file).moments(1))


def test_missing_and_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_replay(tmp_path / "none.json.z")
    file = tmp_path / "x.json.z"
    file.write_bytes(b"")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageError):
        read_replay(file)
