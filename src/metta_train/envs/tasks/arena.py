"""The original's arena/basic_easy_shaped (reference 16), rebuilt from MettaGrid's handlers and events.

What its engine had and this one lacks is expressed like this:

* A converter is an object with a store. Two events per tick and kind drive it: one counts the converter's own
  `cooldown` resource down, one makes a product where the input is there, the cooldown is over and there is room.
  As in the original a product takes one tick to make, so that a busy mine yields every `cooldown + 1` ticks.
* To use an object is to move into it: one move takes all products and puts one product's input in.
* Moving into an agent attacks it, at the cost of a laser; in the original an attack chose among the nine cells ahead.
  A hit takes all that the target holds. It does not freeze the target for 10 ticks: this engine ignores conditions on
  moving. Both are beside the point here, as in the original: the map offers no lasers.
* Blocks are walls: nothing swaps places with them.
"""

from __future__ import annotations

from mettagrid.config.action_config import ActionsConfig, ChangeVibeActionConfig
from mettagrid.config.event_config import EventConfig, periodic
from mettagrid.config.handler_config import (
    AnyHandler,
    Handler,
    actorHas,
    allOf,
    deposit,
    firstMatch,
    isNot,
    targetHas,
    updateActor,
    updateTarget,
    withdraw,
)
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
from mettagrid.config.query import query
from mettagrid.config.reward_config import AgentReward, inventoryReward
from mettagrid.config.tag import typeTag
from mettagrid.map_builder.map_builder import MapBuilderConfig

from metta_train.envs.config import ArenaTask, ConverterConfig
from metta_train.envs.tasks.rooms import RoomsMap

ITEMS = ["ore_red", "battery_red", "heart", "laser", "armor", "blueprint"]  # what an attacker can take
COOLDOWN = "cooldown"  # held by converters: ticks until the next product may begin


def arena_game(task: ArenaTask) -> MettaGridConfig:
    """The MettaGrid config of the task."""
    unknown = sorted(set(task.rewards) - set(ITEMS))
    if unknown:
        raise ValueError(f"env.task.rewards: got {unknown[0]!r}, needs one of {', '.join(ITEMS)}")
    return arena_game_on(
        task,
        num_agents=task.rooms * task.agents_per_room,
        map_builder=RoomsMap.Config(
            rooms=task.rooms,
            height=task.room_size,
            width=task.room_size,
            border=task.border,
            agents=task.agents_per_room,
            objects={
                "mine_red": task.mine.count,
                "generator_red": task.generator.count,
                "altar": task.altar.count,
                "wall": task.walls + task.blocks,
            },
        ),
    )


def arena_game_on(task: ArenaTask, *, num_agents: int, map_builder: MapBuilderConfig) -> MettaGridConfig:
    """The rules of the task on any map."""
    converters = (
        _Converter("mine_red", None, "ore_red", task.mine),
        _Converter("generator_red", "ore_red", "battery_red", task.generator),
        _Converter("altar", "battery_red", "heart", task.altar),
    )
    return MettaGridConfig(
        label="arena",
        game=GameConfig(
            resource_names=[*ITEMS, COOLDOWN],
            num_agents=num_agents,
            max_steps=task.max_steps,
            obs=ObsConfig(width=task.window, height=task.window, num_tokens=task.num_tokens),
            protocol_details_obs=False,
            actions=ActionsConfig(change_vibe=ChangeVibeActionConfig(enabled=False)),
            agent=AgentConfig(
                inventory=InventoryConfig(
                    default_limit=task.default_limit,
                    limits={"heart": ResourceLimitsConfig(base=task.heart_limit, resources=["heart"])},
                ),
                rewards=_rewards(task),
                on_use_handler=_attack(),
            ),
            objects={"wall": WallConfig(), **{converter.name: converter.object() for converter in converters}},
            events={event.name: event for converter in converters for event in converter.events(task.max_steps)},
            map_builder=map_builder,
        ),
    )


class _Converter:
    def __init__(self, name: str, source: str | None, product: str, config: ConverterConfig) -> None:
        self.name = name
        self._source = {source: config.input_amount} if source and config.input_amount else {}
        self._product = product
        self._config = config

    def object(self) -> GridObjectConfig:
        handlers = [Handler(filters=[targetHas({self._product: 1})], mutations=[withdraw({self._product: -1})])]
        for source, amount in self._source.items():
            handlers.append(Handler(filters=[actorHas({source: 1})], mutations=[deposit({source: amount})]))
        return GridObjectConfig(name=self.name, on_use_handler=allOf(handlers))

    def events(self, max_steps: int) -> tuple[EventConfig, EventConfig]:
        config = self._config
        every_tick = periodic(start=1, period=1, end=max_steps)
        make = EventConfig(
            name=f"{self.name}.make",
            target_query=query(typeTag(self.name)),
            timesteps=every_tick,
            priority=0,
            filters=[
                isNot(targetHas({COOLDOWN: 1})),
                isNot(targetHas({self._product: config.max_output})),
                *([targetHas(self._source)] if self._source else []),
            ],
            # The count-down of the same tick follows, so 1 more than the ticks to wait.
            mutations=[
                updateTarget(
                    {
                        **{source: -amount for source, amount in self._source.items()},
                        self._product: 1,
                        COOLDOWN: config.cooldown + 1,
                    }
                )
            ],
        )
        count_down = EventConfig(
            name=f"{self.name}.cooldown",
            target_query=query(typeTag(self.name)),
            timesteps=every_tick,
            priority=1,
            filters=[targetHas({COOLDOWN: 1})],
            mutations=[updateTarget({COOLDOWN: -1})],
        )
        return make, count_down


def _attack() -> AnyHandler | None:
    """One armor of the target stops it and is used up."""
    armed = actorHas({"laser": 1})
    cost = updateActor({"laser": -1})
    blocked = Handler(
        name="blocked", filters=[armed, targetHas({"armor": 1})], mutations=[cost, updateTarget({"armor": -1})]
    )
    hit = Handler(name="hit", filters=[armed], mutations=[cost, withdraw(dict.fromkeys(ITEMS, -1))])
    return firstMatch([blocked, hit])


def _rewards(task: ArenaTask) -> dict[str, AgentReward]:
    """Rewards for what an agent holds: paid when it comes, taken back when it goes, as in the original."""
    rewards = {item: inventoryReward(item, weight=weight, max=weight) for item, weight in task.rewards.items()}
    rewards["heart"] = inventoryReward("heart", weight=task.heart_reward)
    return rewards
