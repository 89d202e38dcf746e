"""MettaGrid on its C++ simulator: one simulator object per episode, writing straight into the bound buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from mettagrid.config.action_config import CHANGE_VIBE_PREFIX
from mettagrid.config.mettagrid_c_config import convert_to_cpp_game_config, rename_map_agents
from mettagrid.config.mettagrid_config import GameConfig, MettaGridConfig
from mettagrid.map_builder.map_builder import HasSeed, MapBuilderConfig
from mettagrid.mettagrid_c import MettaGrid
from numpy.typing import NDArray

from metta_train.envs.config import ArenaTask, FeatureOverrides, ForageTask, MettaGridEnvConfig
from metta_train.envs.environment import EnvBuffers, Environment
from metta_train.envs.mettagrid_files import read_game
from metta_train.envs.tasks.arena import arena_game
from metta_train.envs.tasks.forage import forage_game
from metta_train.envs.token_features import token_features
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation
from metta_train.specs.random_streams import derived_seed

MAX_SIMULATOR_SEED = 2**31  # the simulator takes an int; larger seeds are folded
MAX_MAP_SEED = 2**32
NOOP = 0  # first of MettaGrid's actions wherever it is enabled


@dataclass(frozen=True, slots=True)
class MettaGridGame:
    """A game ready to be played: its config with our limits applied, and what a policy may know of it."""

    config: MettaGridConfig
    spec: EnvironmentSpec


def load_game(config: MettaGridEnvConfig) -> MettaGridGame:
    """The game of an env config.

    Raises:
        ValueError: an unreadable or invalid file, a game without a time limit, or overrides that fit nothing.
    """
    game, task_features = _game_and_features(config)
    if game.game.max_steps == 0:
        raise ValueError("env.max_steps: the game has no time limit (max_steps 0); set env.max_steps, e.g. to 1000")
    if game.game.talk.enabled:
        raise ValueError("game.talk.enabled: got true, but talk is not an action of these policies; set it to false")
    if game.game.actions.change_vibe.enabled and not game.game.actions.noop.enabled:
        raise ValueError("game.actions.noop: is off, but agents that change their vibe need it; enable noop")
    game.game.episode_truncates = config.time_limit == "truncation"
    return MettaGridGame(config=game, spec=_spec_of(game, [*task_features, config.features]))


def _game_and_features(config: MettaGridEnvConfig) -> tuple[MettaGridConfig, list[FeatureOverrides]]:
    limit = {} if config.max_steps is None else {"max_steps": config.max_steps}
    if config.config is not None:
        game = read_game(config.config)
        game.game = game.game.model_copy(update=limit)
        _check_starts(game, config.config)
        return game, []
    match config.task:
        # The limit goes into the task, whose events may depend on it.
        case ForageTask() as task:
            return forage_game(task.model_copy(update=limit)), [task.features]
        case ArenaTask() as task:
            return arena_game(task.model_copy(update=limit)), [task.features]
        case None:
            raise AssertionError("the config model demands a file or a task")


def _spec_of(game: MettaGridConfig, overrides: list[FeatureOverrides]) -> EnvironmentSpec:
    obs = game.game.obs
    return EnvironmentSpec(
        name=game.label,
        num_agents=game.game.num_agents,
        observation=TokenObservation(
            num_tokens=obs.num_tokens,
            window_height=obs.height,
            window_width=obs.width,
            features=token_features(game.game, overrides),
        ),
        actions=ActionTable.discrete([action.name for action in game.game.actions.actions()]),
    )


def _check_starts(game: MettaGridConfig, path: str) -> None:
    """A file may name objects, tags or resources that do not exist; only the simulator knows all the rules."""
    try:
        _EpisodeFactory(game.game).start(seed=0)
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"env.config={path}: MettaGrid cannot start this game: {reason}") from None


class _EpisodeFactory:
    """Makes simulators. The conversion to C++ is done once; an episode costs a map and a simulator object."""

    def __init__(self, game: GameConfig) -> None:
        # The conversion writes the list of agents into its argument.
        game = game.model_copy()
        self._num_agents = game.num_agents
        self._map_builder = game.map_builder
        self._cpp_config, self._agent_names = convert_to_cpp_game_config(game)

    def start(self, seed: int) -> MettaGrid:
        """A simulator at the start of the episode of `seed`; it has no buffers yet."""
        map_seed = derived_seed(seed, "map") % MAX_MAP_SEED
        builder = _seeded(self._map_builder, map_seed).create()
        # Maps with more spawn points than agents choose among them; builders without a seed would do it at random.
        if not isinstance(builder.config, HasSeed):
            builder.shuffle_spawn_indices = np.random.default_rng(map_seed).shuffle
        cells = builder.build_for_num_agents(self._num_agents).grid.tolist()
        cells = rename_map_agents(cells, self._agent_names)
        return MettaGrid(self._cpp_config, cells, derived_seed(seed, "simulator") % MAX_SIMULATOR_SEED)


def _seeded(builder: MapBuilderConfig, seed: int) -> MapBuilderConfig:
    """The same map config with this seed, also in map builders nested within it."""
    changes: dict[str, object] = {
        name: _seeded(value, seed) for name, value in builder if isinstance(value, MapBuilderConfig)
    }
    if isinstance(builder, HasSeed):
        changes["seed"] = seed
    return builder.model_copy(update=changes)


class MettaGridEnvironment(Environment):
    """All agents of a game terminate or truncate together, at its time limit or at its statistics' thresholds."""

    def __init__(self, game: MettaGridGame) -> None:
        self._game = game
        self._factory = _EpisodeFactory(game.config.game)
        self._thresholds = tuple(game.config.game.end_episode_on_game_stats.items())
        names = game.spec.actions.names
        self._first_vibe_action = sum(not name.startswith(CHANGE_VIBE_PREFIX) for name in names)  # they come last
        self._actions = np.zeros(game.spec.num_agents, np.int32)
        self._vibe_actions = np.zeros(game.spec.num_agents, np.int32)
        self._buffers: EnvBuffers | None = None
        self._simulator: MettaGrid | None = None

    @property
    def spec(self) -> EnvironmentSpec:
        return self._game.spec

    @property
    def can_replay(self) -> bool:
        return True

    @property
    def episode_limit(self) -> int:
        return self._game.config.game.max_steps

    @property
    def simulator(self) -> MettaGrid:
        """The simulator of the present episode; for tests and replays."""
        assert self._simulator is not None, "reset comes before this"
        return self._simulator

    def bind(self, buffers: EnvBuffers) -> None:
        self._buffers = buffers

    def reset(self, seed: int) -> None:
        buffers = self._buffers
        assert buffers is not None, "bind comes before reset"
        simulator = self._factory.start(seed)
        self._actions.fill(0)
        self._vibe_actions.fill(0)
        # Writes the first observations, zero rewards and no flags.
        simulator.set_buffers(
            buffers.observations,
            buffers.terminations,
            buffers.truncations,
            buffers.rewards,
            self._actions,
            self._vibe_actions,
        )
        self._simulator = simulator

    def step(self, actions: NDArray[np.int32]) -> None:
        buffers = self._buffers
        assert buffers is not None, "bind comes before step"
        # The simulator raises flags and never lowers them.
        buffers.terminations.fill(False)
        buffers.truncations.fill(False)
        if self._first_vibe_action < len(self.spec.actions):
            # The simulator takes vibes through an array of their own; the agent stands still meanwhile.
            vibes = actions >= self._first_vibe_action
            self._vibe_actions[:] = np.where(vibes, actions, 0)
            actions = np.where(vibes, NOOP, actions)
        self._actions[:] = actions
        simulator = self.simulator
        simulator.step()
        if self._thresholds:
            self._end_at_thresholds(simulator)

    def _end_at_thresholds(self, simulator: MettaGrid) -> None:
        # MettaGrid's Python simulation does this outside the C++ simulator, and truncates.
        assert self._buffers is not None
        for name, threshold in self._thresholds:
            value = simulator.get_game_stat(name)
            if value is not None and value >= threshold:
                self._buffers.truncations.fill(True)

    def episode_stats(self) -> Mapping[str, float]:
        """`game/<name>`, and `agent/<name>` as a mean over all agents (an agent without the statistic counts 0)."""
        stats = self.simulator.get_episode_stats()
        # The map has one object type per agent (objects.agent.red.7 = 1): 24 constants that say nothing.
        result = {
            f"game/{name}": float(value)
            for name, value in stats["game"].items()
            if not name.startswith("objects.agent.")
        }
        totals: dict[str, float] = {}
        for agent_stats in stats["agent"]:
            for name, value in agent_stats.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        num_agents = len(stats["agent"])
        result.update((f"agent/{name}", total / num_agents) for name, total in totals.items())
        return result

    def close(self) -> None:
        self._simulator = None
