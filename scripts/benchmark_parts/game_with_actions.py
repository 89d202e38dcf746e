"""The foraging game with as many actions as one likes: those that change an agent's vibe do nothing else."""

from __future__ import annotations

from pathlib import Path

from mettagrid.config.action_config import ChangeVibeActionConfig
from mettagrid.config.vibes import VIBES
from mettagrid.map_builder.ascii import AsciiMapBuilder

from metta_train import load_config
from metta_train.envs.config import ForageTask, MettaGridEnvConfig
from metta_train.envs.tasks.forage import forage_game

PLACES = {"wall": "#", "empty": ".", "agent.agent": "@", "mine": "m", "altar": "a"}
NAMES = {"m": "mine", "a": "altar"}  # the others are MettaGrid's own


def game_with_actions(actions: int, folder: Path) -> Path:
    """Write its MettaGrid config into the folder, with one map for all episodes, for `env.config`."""
    env = load_config(["env=forage"]).env
    assert isinstance(env, MettaGridEnvConfig) and isinstance(env.task, ForageTask)
    game = forage_game(env.task)
    vibes = actions - len(game.game.actions.actions())
    game.game.obs.num_tokens = 96  # a vibe takes a token of each agent in sight
    game.game.actions.change_vibe = ChangeVibeActionConfig(enabled=vibes > 0, vibes=VIBES[:vibes])
    grid = game.game.map_builder.create().build().grid
    rows = [[PLACES[name] for name in row] for row in grid]
    game.game.map_builder = AsciiMapBuilder.Config(map_data=rows, char_to_map_name=NAMES)
    path = folder / f"{actions}-actions.json"
    path.write_text(game.model_dump_json())
    return path
