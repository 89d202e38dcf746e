"""The original's arena/basic_easy_shaped."""

from __future__ import annotations

from mettagrid.config.mettagrid_config import MettaGridConfig

from metta_train.envs.config import ArenaTask


def arena_game(task: ArenaTask) -> MettaGridConfig:
    raise NotImplementedError
