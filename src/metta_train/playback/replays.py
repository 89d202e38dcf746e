"""MettaGrid replays (.json.z), read back as moments."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metta_train.playback.moments import Cast, Decision, Moment, Source
from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.scene import Scene, Thing

SUFFIX = ".json.z"
MAX_BYTES = 1 << 30  # unpacked
# Values of these keys are lists themselves, so that a list alone does not mean a history.
_LISTS = frozenset({"location", "inventory", "inventory_capacities", "tag_ids", "input_resources", "output_resources"})
_HISTORY = 2  # a [step, value] pair


class ReplayFile(Source):
    """A replay that was read and found to be one."""

    def __init__(self, content: bytes, cast: Cast, data: Mapping[str, Any]) -> None:
        self._content = content
        self._cast = cast
        self._data = data

    @property
    def cast(self) -> Cast:
        return self._cast

    def moments(self, episode: int) -> Iterator[Moment]:
        """From the first recorded step to the last; the moment before the first step is in no replay.

        Raises:
            ConfigError: an object of the replay is damaged.
        """
        assert episode == 1, "a replay holds one episode"
        try:
            yield from _moments(self._data, self._cast)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"{self._cast.policy}: a damaged replay ({type(error).__name__}: {error})") from error

    def replay(self) -> bytes:
        return self._content

    def close(self) -> None:
        """Nothing is open."""


def read_replay(file: Path) -> ReplayFile:
    """A replay of MettaGrid, whoever wrote it.

    Raises:
        ConfigError: it is none, or damaged.
        StorageError: it cannot be read.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file")
    with storage_errors("read", file):
        content = file.read_bytes()
    name = str(file)
    data = _unpacked(content, name)
    try:
        width, height = (int(side) for side in data["map_size"])
        num_agents, steps = int(data["num_agents"]), int(data["max_steps"])
        actions = tuple(str(action) for action in data["action_names"])
        objects = data["objects"]
        valid = num_agents > 0 and steps > 0 and width > 0 and height > 0 and bool(actions)
        valid = valid and isinstance(objects, list) and all(isinstance(thing, dict) for thing in objects)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: is no MettaGrid replay ({type(error).__name__}: {error})") from error
    if not valid:
        raise ConfigError(f"{name}: is no MettaGrid replay: no agents, steps, actions or objects")
    label = data.get("mg_config", {}).get("label") if isinstance(data.get("mg_config"), dict) else None
    cast = Cast(
        file.name.removesuffix(SUFFIX), str(label or "MettaGrid"), actions, num_agents, _window(data), steps, "replay"
    )
    return ReplayFile(content, cast, data)


def _unpacked(content: bytes, name: str) -> Mapping[str, Any]:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(content, MAX_BYTES)
        if unpacker.unconsumed_tail:
            raise ConfigError(f"{name}: is larger than {MAX_BYTES} bytes when unpacked")
        data = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name}: is no MettaGrid replay ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: is no MettaGrid replay: holds a {type(data).__name__}")
    return data


def _window(data: Mapping[str, Any]) -> tuple[int, int] | None:
    try:
        seen = data["mg_config"]["game"]["obs"]
        return int(seen["height"]), int(seen["width"])
    except (KeyError, TypeError, ValueError):
        return None


def _moments(data: Mapping[str, Any], cast: Cast) -> Iterator[Moment]:
    width, height = (int(side) for side in data["map_size"])
    items = [str(item) for item in data.get("item_names", [])]
    things = [_History(thing) for thing in data["objects"]]
    walls = frozenset(_at(thing) for thing in things if thing.now("type_name", 0) == "wall")
    moving = [thing for thing in things if thing.now("type_name", 0) != "wall"]
    steps = cast.limit or 0
    current = _moved(moving, 0)
    for step in range(steps):
        scene = Scene(height, width, walls, tuple(_thing(values, items) for values in current if values["alive"]))
        agents = {int(values["agent_id"]): values for values in current if values.get("agent_id") is not None}
        rewards, totals = np.zeros(cast.num_agents, np.float32), np.zeros(cast.num_agents, np.float64)
        for number, values in agents.items():
            rewards[number], totals[number] = values.get("current_reward", 0.0), values.get("total_reward", 0.0)
        current = _moved(moving, step + 1) if step + 1 < steps else []
        yield Moment(step + 1, scene, None, rewards, totals, _decision(current, cast))


class _History:
    """One object of a replay: every field is a value, or pairs of step and value."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = {key: _pairs(key, value) for key, value in fields.items()}
        self._at = dict.fromkeys(self._fields, 0)

    def now(self, key: str, step: int) -> Any:  # noqa: ANN401  # whatever JSON holds
        """The value of a field; steps may not go back."""
        pairs = self._fields.get(key)
        if not pairs:
            return None
        at = self._at[key]
        while at + 1 < len(pairs) and pairs[at + 1][0] <= step:
            at += 1
        self._at[key] = at
        return pairs[at][1]


def _pairs(key: str, value: Any) -> list[tuple[int, Any]]:  # noqa: ANN401
    if not isinstance(value, list) or not value:
        return [(0, value)]
    if not all(isinstance(pair, list) and len(pair) == _HISTORY for pair in value):
        return [(0, value)]
    if key in _LISTS and not all(isinstance(pair[1], list) for pair in value):
        return [(0, value)]
    return [(int(step), inner) for step, inner in value]


_KEYS = (
    "type_name",
    "location",
    "inventory",
    "agent_id",
    "action_id",
    "current_reward",
    "total_reward",
    "policy_infos",
)


def _moved(things: list[_History], step: int) -> list[dict[str, Any]]:
    found = []
    for thing in things:
        values = {key: thing.now(key, step) for key in _KEYS}
        values["alive"] = thing.now("alive", step) is not False
        found.append(values)
    return found


def _at(thing: _History) -> tuple[int, int]:
    column, row = (int(place) for place in thing.now("location", 0)[:2])
    return row, column


def _thing(values: Mapping[str, Any], items: list[str]) -> Thing:
    column, row = (int(place) for place in values["location"][:2])
    held = tuple((items[int(item)], int(amount)) for item, amount in values["inventory"] or [] if amount)
    agent = values["agent_id"]
    return Thing(str(values["type_name"]), row, column, None if agent is None else int(agent), held)


def _decision(current: list[dict[str, Any]], cast: Cast) -> Decision | None:
    if not current:
        return None
    actions = np.zeros(cast.num_agents, np.int64)
    probabilities = np.zeros((cast.num_agents, len(cast.actions)), np.float32)
    values = np.zeros(cast.num_agents, np.float32)
    told = False
    index = {name: number for number, name in enumerate(cast.actions)}
    for thing in current:
        if thing["agent_id"] is None:
            continue
        agent = int(thing["agent_id"])
        actions[agent] = int(thing["action_id"] or 0)
        note = thing["policy_infos"]
        if isinstance(note, dict) and isinstance(note.get("probabilities"), dict):
            told = True
            actions[agent] = index.get(str(note.get("action")), int(actions[agent]))
            values[agent] = float(note.get("value", 0.0))
            for name, probability in note["probabilities"].items():
                if name in index:
                    probabilities[agent, index[name]] = float(probability)
    return Decision(actions, probabilities if told else None, values if told else None)
