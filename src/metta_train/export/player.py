"""Lets an exported network play in MettaGrid.

metta-export copies this file into bundles, so it imports nothing of metta-train: it needs torch, safetensors, numpy and
mettagrid.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from mettagrid.mettagrid_c import dtype_actions
from mettagrid.policy.policy import AgentPolicy, MultiAgentPolicy
from mettagrid.policy.policy_env_interface import PolicyEnvInterface
from mettagrid.simulator import Action, AgentObservation, Simulation
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

KEY = "metta_train"  # of the description in the weights' metadata
PADDING, GLOBAL = 255, 254  # location bytes: no token, and tokens about the agent or the game

Tokens = NDArray[np.uint8]  # [N, M, 3]: location, feature, value
State = tuple[Tensor, ...]  # each [N, ...]

logger = logging.getLogger(__name__)


class Player(MultiAgentPolicy):
    """A trained network for every agent. A subclass names the network and its tensors.

    Features, their values (tags, actions) and actions are found by name, so that they may come in another order than
    in training. Agents keep a memory each; those of one tick are computed together.

    Args:
        policy_env_info: the game.
        device: of the network.
        greedy: take the most probable action; false draws one.
        seed: of the draws.
    """

    tensor_names: ClassVar[tuple[str, ...]]
    network: ClassVar[Callable[..., tuple[Tensor, ...]]]

    def __init__(
        self, policy_env_info: PolicyEnvInterface, device: str = "cpu", greedy: bool | str = True, seed: int | str = 0
    ) -> None:
        super().__init__(policy_env_info, device=device)
        self._device = torch.device(device)
        self._greedy = greedy if isinstance(greedy, bool) else greedy.lower() == "true"  # command lines give texts
        self._generator = torch.Generator(self._device).manual_seed(int(seed))
        self._data_path: str | None = None
        self._batch_state: State | None = None

    def load_policy_data(self, policy_data_path: str) -> None:
        """Read the weights, and run the network once, so that the first decision of a game is no slower than others."""
        with safe_open(policy_data_path, framework="pt", device=str(self._device)) as file:
            document: dict[str, Any] = json.loads(file.metadata()[KEY])
            self._tensors = [file.get_tensor(name) for name in type(self).tensor_names]
        self._data_path = policy_data_path
        environment: dict[str, Any] = document["environment"]
        self._state_shapes: list[list[int]] = document["state_shapes"]
        self._names: list[str] = environment["actions"]
        self._num_tokens: int = environment["observation"]["num_tokens"]
        self._translation = Translation(environment, self.policy_env_info)
        self._possible = self._possible_actions()
        for rows in {1, self.policy_env_info.num_agents}:
            self.decide(np.full((rows, 1, 3), PADDING, np.uint8), np.ones(rows, np.bool_), self.initial_state(rows))
        self._generator.manual_seed(self._generator.initial_seed())

    def save_policy_data(self, policy_data_path: str) -> None:
        assert self._data_path is not None, "load_policy_data comes first"
        shutil.copyfile(self._data_path, policy_data_path)

    def agent_policy(self, agent_id: int) -> AgentPolicy:
        return PlayerAgent(self, agent_id)

    def reset(self) -> None:
        """Forget what `step_batch` remembers; agents have their own reset."""
        self._batch_state = None

    def step_batch(self, raw_observations: NDArray[Any], raw_actions: NDArray[Any]) -> None:
        """One step of all rows of a vector environment; actions are indices of `all_action_names`."""
        rows = raw_observations.shape[0]
        opens = self._batch_state is None or any(tensor.shape[0] != rows for tensor in self._batch_state)
        state = self.initial_state(rows) if opens or self._batch_state is None else self._batch_state
        names, self._batch_state = self.decide(
            np.asarray(raw_observations, np.uint8), np.full(rows, opens, np.bool_), state
        )
        indices = self.policy_env_info.action_name_to_flat_index
        raw_actions[...] = np.array([indices[name] for name in names], dtype_actions)

    def initial_state(self, rows: int) -> State:
        """The memory of agents that have seen nothing."""
        return tuple(torch.zeros(rows, *shape, device=self._device) for shape in self._state_shapes)

    @torch.inference_mode()
    def decide(self, tokens: Tokens, resets: NDArray[np.bool_], state: State) -> tuple[list[str], State]:
        """Names of the actions of all rows, and the memory after them."""
        seen = np.full((len(tokens), self._num_tokens, 3), PADDING, np.uint8)
        shown = self._translation.of(tokens[:, : self._num_tokens])
        seen[:, : shown.shape[1]] = shown
        with self._device:
            logits, _, *after = type(self).network(
                *self._tensors,
                torch.from_numpy(seen).to(self._device),
                torch.from_numpy(resets).to(self._device),
                *state,
            )
        logits = logits.float().masked_fill(~self._possible, -torch.inf)
        if not self._greedy:  # Gumbel-max: argmax(logits + Gumbel noise) is a draw
            noise = torch.empty_like(logits).exponential_(generator=self._generator)
            logits = logits - noise.clamp_min_(torch.finfo(torch.float32).tiny).log()
        return [self._names[index] for index in logits.argmax(dim=-1).tolist()], tuple(after)

    def _possible_actions(self) -> Tensor:
        """`[A]` bool: those of the policy's actions that the game has."""
        known = set(self.policy_env_info.all_action_names)
        possible = torch.tensor([name in known for name in self._names], device=self._device)
        if not bool(possible.any()):
            raise ValueError(
                f"the game has none of this policy's actions: it has {', '.join(sorted(known))}; "
                f"the policy knows {', '.join(self._names)}"
            )
        return possible


class PlayerAgent(AgentPolicy):
    """One agent and its memory."""

    def __init__(self, player: Player, agent_id: int) -> None:
        super().__init__(player.policy_env_info)
        self.player = player
        self.agent_id = agent_id
        self._state = player.initial_state(1)
        self._opens = True  # the next observation opens an episode
        self._group: Mapping[int, PlayerAgent] = {}

    def reset(self, simulation: Simulation | None = None) -> None:
        """The next observation opens an episode."""
        self._opens = True

    def step(self, obs: AgentObservation) -> Action:
        return _decide_together([self], [obs])[0]

    def can_step_group(self, policies: Sequence[AgentPolicy]) -> bool:
        """MettaGrid asks this of the first agent of a group before it lets it decide for all of them."""
        group = [policy for policy in policies if isinstance(policy, PlayerAgent) and policy.player is self.player]
        self._group = {policy.agent_id: policy for policy in group}
        return len(self._group) == len(policies)

    def step_group(self, observations: list[tuple[int, AgentObservation]]) -> list[Action]:
        return _decide_together([self._group[agent] for agent, _ in observations], [obs for _, obs in observations])


def _decide_together(agents: Sequence[PlayerAgent], observations: Sequence[AgentObservation]) -> list[Action]:
    player = agents[0].player
    tokens = np.full((len(agents), max(1, *(len(obs.tokens) for obs in observations)), 3), PADDING, np.uint8)
    for row, obs in zip(tokens, observations, strict=True):
        if obs.tokens:
            row[: len(obs.tokens)] = [token.raw_token for token in obs.tokens]
    resets = np.array([agent._opens for agent in agents])
    state = tuple(torch.cat(tensors) for tensors in zip(*(agent._state for agent in agents), strict=True))
    names, after = player.decide(tokens, resets, state)
    for row, agent in enumerate(agents):
        agent._opens = False
        agent._state = tuple(tensor[row : row + 1] for tensor in after)
    return [Action(name=name) for name in names]


class Translation:
    """From a game's tokens to those of the game that the policy was trained on.

    Features that the policy does not know, cells outside its window, and values without a name that it knows become
    padding. Windows of another size are laid centre on centre.
    """

    def __init__(self, environment: Mapping[str, Any], game: PolicyEnvInterface) -> None:
        trained: dict[str, Any] = environment["observation"]
        self._locations = _locations((trained["window_height"], trained["window_width"]), game.egocentric_shape)
        self._features = np.full(256, PADDING, np.uint8)
        self._values = np.tile(np.arange(256, dtype=np.uint8), (256, 1))  # by the game's feature and value
        self._known = np.zeros((256, 256), np.bool_)
        here = {feature.name: feature.id for feature in game.obs_features}
        names_here = {"tag": list(game.tags), "last_action": list(game.all_action_names)}
        for feature in cast("list[dict[str, Any]]", trained["features"]):
            if feature["name"] not in here:
                continue
            number = here[feature["name"]]
            self._features[number] = feature["id"]
            self._known[number] = True
            if feature["values"] and feature["name"] in names_here:
                for value, name in enumerate(names_here[feature["name"]][:256]):
                    self._known[number, value] = name in feature["values"]
                    if name in feature["values"]:
                        self._values[number, value] = feature["values"].index(name)
        missing = [feature["name"] for feature in trained["features"] if feature["name"] not in here]
        if missing:
            logger.warning("this game never shows what the policy was trained to see: %s", ", ".join(missing))

    def of(self, tokens: Tokens) -> Tokens:
        """Translated copies, `[N, M, 3]`."""
        locations, features, values = tokens[..., 0], tokens[..., 1], tokens[..., 2]
        shown = np.where(self._known[features, values], self._locations[locations], PADDING)
        return np.stack([shown, self._features[features], self._values[features, values]], axis=-1).astype(np.uint8)


def _locations(trained: Sequence[int], game: Sequence[int]) -> NDArray[np.uint8]:
    """[256]: a location byte of the game in the window of the policy."""
    table = np.full(256, PADDING, np.uint8)
    table[GLOBAL] = GLOBAL
    down, right = (side // 2 - side_here // 2 for side, side_here in zip(trained, game, strict=True))
    for row in range(min(game[0], 15)):
        for column in range(min(game[1], 15)):
            there = (row + down, column + right)
            if 0 <= there[0] < trained[0] and 0 <= there[1] < trained[1]:
                table[row << 4 | column] = there[0] << 4 | there[1]
    return table
