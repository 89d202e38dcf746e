"""The small foraging task: mines give ore, altars turn ore into hearts, hearts are the reward."""

from __future__ import annotations

from mettagrid.config.action_config import ActionsConfig, ChangeVibeActionConfig
from mettagrid.config.handler_config import Handler, actorHas, updateActor
from mettagrid.config.mettagrid_config import (
    AgentConfig,
    GameConfig,
    GridObjectConfig,
    InventoryConfig,
    MettaGridConfig,
    ResourceLimitsConfig,
    WallConfig,
)
from mettagrid.config.obs_config import ObsConfig
from mettagrid.config.reward_config import inventoryReward

from metta_train.envs.config import ForageTask
from metta_train.envs.tasks.rooms import RoomsMap

HEART_LIMIT = 255  # one byte, so that a count never needs a second token


def forage_game(task: ForageTask) -> MettaGridConfig:
    """The MettaGrid config of the task.

    To use an object is to move into it. Every object and agent has one tag, that of its type, so no cell ever holds
    two `tag` tokens.
    """
    mine = GridObjectConfig(name="mine", on_use_handler=Handler(mutations=[updateActor({"ore": 1})]))
    altar = GridObjectConfig(
        name="altar",
        on_use_handler=Handler(filters=[actorHas({"ore": 1})], mutations=[updateActor({"ore": -1, "heart": 1})]),
    )
    rewards = {"heart": inventoryReward("heart", weight=task.heart_reward)}
    if task.ore_reward:
        rewards["ore"] = inventoryReward("ore", weight=task.ore_reward, max=task.ore_reward)
    return MettaGridConfig(
        label="forage",
        game=GameConfig(
            resource_names=["ore", "heart"],
            num_agents=task.rooms * task.agents_per_room,
            max_steps=task.max_steps,
            obs=ObsConfig(width=task.window, height=task.window, num_tokens=task.num_tokens),
            protocol_details_obs=False,
            actions=ActionsConfig(change_vibe=ChangeVibeActionConfig(enabled=False)),
            agent=AgentConfig(
                inventory=InventoryConfig(
                    default_limit=HEART_LIMIT,
                    limits={"ore": ResourceLimitsConfig(base=task.ore_limit, resources=["ore"])},
                ),
                rewards=rewards,
            ),
            objects={"wall": WallConfig(), "mine": mine, "altar": altar},
            map_builder=RoomsMap.Config(
                rooms=task.rooms,
                height=task.room_size,
                width=task.room_size,
                room_wall=1,
                gap=task.window // 2,  # no agent sees into another room
                agents=task.agents_per_room,
                objects={"mine": task.mines, "altar": task.altars},
            ),
        ),
    )
