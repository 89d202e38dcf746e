"""Game files that cannot be used are refused in one line that names the file and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from mettagrid.config.mettagrid_config import MettaGridConfig

from metta_train.envs.build import environment_spec
from metta_train.envs.mettagrid_files import read_game
from tests.envs.env_configs import env_config


@pytest.mark.parametrize("name", ["game.json", "game.yaml"])
def test_a_written_config_is_read_back(tmp_path: Path, name: str) -> None:
    game = MettaGridConfig.EmptyRoom(num_agents=3)
    path = tmp_path / name
    path.write_text(game.model_dump_json())  # JSON is YAML too
    assert read_game(str(path)).model_dump() == game.model_dump()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "game: [", "is not YAML"),
        ("a.json", "{", "is not JSON"),
        ("a.yaml", "- 1", "got a list, needs a mapping"),
        ("a.yaml", "", "got a NoneType, needs a mapping"),
        ("a.yaml", "game: {num_agent: 3}", "not a valid MettaGrid config: game.num_agent: "),
        ("a.yaml", "game: {num_agents: many}", "not a valid MettaGrid config: game.num_agents: "),
        ("a.yaml", "game: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("a.yaml", "game: {map_builder: {type: os.path.join}}", "game.map_builder.type: got 'os.path.join'"),
        ("a.yaml", "game: {map_builder: {type: mettagrid.nothing.Config}}", "not a valid MettaGrid config"),
        ("a.yaml", "game: {num_agents: 2, agent: {tags: [3]}}", "not a valid MettaGrid config: game.agent.tags"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        environment_spec(env_config("mettagrid", {"config": str(path)}))
    message = str(error.value)
    assert message.startswith(f"env.config={path}: ") and reason in message
    assert "\n" not in message
    assert error.value.__context__ is None or error.value.__suppress_context__


def test_a_game_that_the_simulator_refuses(tmp_path: Path) -> None:
    path = tmp_path / "game.yaml"
    path.write_text(
        "game: {num_agents: 30, map_builder: {agents: 2, "
        "type: mettagrid.map_builder.random_map.RandomMapBuilder.Config}}"
    )
    with pytest.raises(ValueError, match="MettaGrid cannot start this game: Number of agents 30 exceeds"):
        environment_spec(env_config("mettagrid", {"config": str(path)}))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=f"cannot be read: {reason}"):
            read_game(str(path))
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        read_game(str(binary))
