"""The class inside a bundle: names in place of numbers, one memory per agent, batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mettagrid.config.id_map import ObservationFeatureSpec
from mettagrid.policy.policy import AgentPolicy
from mettagrid.policy.policy_env_interface import PolicyEnvInterface
from mettagrid.simulator import AgentObservation, ObservationToken
from torch import Tensor

from metta_train.export.mettagrid_bundle import load_step
from metta_train.export.network_source import network_source
from metta_train.export.player import Player
from metta_train.export.policy_file import Origin, document_of, render_policy
from metta_train.export.step_graph import capture_step
from metta_train.policies.policy import Policy
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import EnvironmentSpec, Feature, TokenObservation
from tests.policies.agents import agent_values, build

AGENTS = 3
CENTRE = 5 << 4 | 5


class Seen(NamedTuple):
    """A token by names: the value is a number, or the name of a tag or an action."""

    location: int
    feature: str
    value: int | str


class Game(NamedTuple):
    """How a game numbers its features, tags and actions."""

    features: dict[str, int]
    tags: list[str]
    actions: list[str]
    vibes: Sequence[str] = ()
    side: int = 11

    def interface(self) -> PolicyEnvInterface:
        return PolicyEnvInterface(
            obs_features=[ObservationFeatureSpec(id=i, name=n, normalization=1.0) for n, i in self.features.items()],
            tags=self.tags,
            action_names=self.actions,
            vibe_action_names=list(self.vibes),
            num_agents=AGENTS,
            observation_shape=(30, 3),
            egocentric_shape=(self.side, self.side),
        )

    def numbers(self, seen: Sequence[Seen]) -> list[tuple[int, int, int]]:
        names = {"tag": self.tags, "last_action": [*self.actions, *self.vibes]}
        return [
            (
                s.location,
                self.features[s.feature],
                s.value if isinstance(s.value, int) else names[s.feature].index(s.value),
            )
            for s in seen
        ]

    def observation(self, agent: int, seen: Sequence[Seen]) -> AgentObservation:
        specs = {feature.id: feature for feature in self.interface().obs_features}
        tokens = [ObservationToken(specs[token[1]], token[2], token) for token in self.numbers(seen)]
        return AgentObservation(agent_id=agent, tokens=tokens)


TRAINED = Game(
    {"tag": 0, "inv:ore": 1, "last_action": 2}, ["agent", "altar", "wall"], ["noop", "north", "south", "east"]
)
TURNED = Game(
    {"energy": 0, "last_action": 7, "tag": 3, "inv:ore": 5},
    ["agent", "acid", "altar", "wall"],
    ["east", "jump", "south", "north", "noop"],
)


def story(steps: int = 8) -> list[list[list[Seen]]]:
    """What each agent sees in each step."""
    generator = np.random.default_rng(2)

    def glance() -> list[Seen]:
        things = generator.integers(0, 11, (6, 2)).tolist()
        return [
            Seen(254, "last_action", str(generator.choice(TRAINED.actions))),
            Seen(CENTRE, "tag", "agent"),
            Seen(CENTRE, "inv:ore", int(generator.integers(9))),
            *(Seen(row << 4 | column, "tag", str(generator.choice(["altar", "wall"]))) for row, column in things),
        ]

    return [[glance() for _ in range(AGENTS)] for _ in range(steps)]


@cache
def policy() -> Policy:
    features = (Feature(0, "tag", categories=3), Feature(1, "inv:ore", 10.0), Feature(2, "last_action", categories=4))
    observation = TokenObservation(num_tokens=20, window_height=11, window_width=11, features=features)
    made = build("agent=fast", EnvironmentSpec("toy", AGENTS, observation, ActionTable.discrete(TRAINED.actions)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.0)  # so that what is seen decides
    return made


def wanted_actions(told: Sequence[Sequence[Sequence[Seen]]]) -> list[list[str]]:
    """By the policy itself."""
    state, names = policy().initial_state(AGENTS), []
    for step, seen in enumerate(told):
        tokens = torch.full((AGENTS, 20, 3), 255, dtype=torch.uint8)
        for row, of_agent in enumerate(seen):
            numbers = TRAINED.numbers(of_agent)
            tokens[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.uint8)
        with torch.no_grad():
            output = policy()(tokens[:, None], state, torch.full((AGENTS, 1), step == 0))
        state = output.state
        names.append([TRAINED.actions[index] for index in output.logits[:, 0].argmax(dim=-1)])
    assert len({name for of_step in names for name in of_step}) > 1, "one action alone proves little"
    return names


@dataclass(frozen=True, slots=True)
class Exported:
    """A class and weights, as in a bundle."""

    kind: type[Player]
    weights: Path

    def player(self, game: Game, *, greedy: bool | str = True, seed: int | str = 0) -> Player:
        player = self.kind(game.interface(), "cpu", greedy, seed)
        player.load_policy_data(str(self.weights))
        return player


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("player") / "weights.safetensors"
    source = network_source(capture_step(policy()), "t")
    origin = Origin("toy", "agent=fast", 1, 10, {"agent": agent_values("agent=fast")})
    names = {"tag": tuple(TRAINED.tags), "last_action": tuple(TRAINED.actions)}
    path.write_bytes(render_policy(source.tensors, document_of(policy(), origin, names)))
    step = load_step(source)

    class Toy(Player):
        tensor_names = tuple(source.tensors)

        @staticmethod
        def network(*arguments: Tensor) -> tuple[Tensor, ...]:
            observations, resets, *state = arguments[len(source.tensors) :]
            return step(observations, resets, tuple(state))

    return Exported(Toy, path)


def agents_of(made: Player) -> list[AgentPolicy]:
    agents = [made.agent_policy(agent) for agent in range(AGENTS)]
    for agent in agents:
        agent.reset()
    return agents


def played(agents: Sequence[AgentPolicy], game: Game, told: Sequence[Sequence[Sequence[Seen]]]) -> list[list[str]]:
    """As MettaGrid's rollout does it for agents of one policy."""
    names = []
    for seen in told:
        assert agents[0].can_step_group(agents)
        observations = [(agent, game.observation(agent, of_agent)) for agent, of_agent in enumerate(seen)]
        names.append([action.name for action in agents[0].step_group(observations)])
    return names


def test_a_game_with_other_numbers_is_played_alike(exported: Exported) -> None:
    told = story()
    wanted = wanted_actions(told)
    assert played(agents_of(exported.player(TRAINED)), TRAINED, told) == wanted
    told_with_more = [[[Seen(17, "energy", 3), *seen, Seen(CENTRE, "energy", 200)] for seen in step] for step in told]
    assert played(agents_of(exported.player(TURNED)), TURNED, told_with_more) == wanted


def test_what_the_policy_never_saw_is_not_shown_to_it(exported: Exported) -> None:
    """A tag, and an action, that only this game has."""
    told = story()
    strange = [[[*seen, Seen(0, "tag", "acid"), Seen(254, "last_action", "jump")] for seen in step] for step in told]
    assert played(agents_of(exported.player(TURNED)), TURNED, strange) == wanted_actions(told)


def test_one_by_one_is_the_same_as_together(exported: Exported) -> None:
    told = story()
    agents = agents_of(exported.player(TRAINED))
    names = [
        [agents[agent].step(TRAINED.observation(agent, seen)).name for agent, seen in enumerate(step)] for step in told
    ]
    assert names == wanted_actions(told)


def test_a_reset_agent_forgets_alone(exported: Exported) -> None:
    told = story()
    player = exported.player(TRAINED)
    agents = agents_of(player)
    played(agents, TRAINED, told[:4])
    remembered = agents_of(player)  # a second game of the same policy does not touch the first
    played(remembered, TRAINED, told[:4])
    agents[1].reset()
    fresh = agents_of(player)
    after = [played(group, TRAINED, told[4:]) for group in (agents, remembered, fresh)]
    assert [step[0] for step in after[0]] == [step[0] for step in after[1]] == [s[0] for s in wanted_actions(told)[4:]]
    assert [step[1] for step in after[0]] == [step[1] for step in after[2]]


def test_step_batch_takes_raw_buffers(exported: Exported) -> None:
    told = story()
    player = exported.player(TURNED)
    names = TURNED.interface().all_action_names
    for wanted in (wanted_actions(told), wanted_actions(told)):
        player.reset()
        got = []
        for step in told:
            tokens = np.full((AGENTS, 30, 3), 255, np.uint8)
            for row, seen in enumerate(step):
                tokens[row, : len(seen)] = TURNED.numbers(seen)
            actions = np.full(AGENTS, -1, np.int32)
            player.step_batch(tokens, actions)
            got.append([names[index] for index in actions])
        assert got == wanted


def test_agents_of_another_policy_are_not_stepped_along(exported: Exported) -> None:
    mine, other = (agents_of(exported.player(TRAINED)) for _ in range(2))
    assert mine[0].can_step_group(mine) and not mine[0].can_step_group([*mine[:2], other[2]])


@pytest.mark.parametrize("side", [7, 13])
def test_windows_are_laid_centre_on_centre(exported: Exported, side: int) -> None:
    middle = side // 2

    def moved(seen: Seen) -> Seen | None:
        if seen.location == 254:
            return seen
        row, column = (seen.location >> 4) - 5 + middle, (seen.location & 15) - 5 + middle
        return Seen(row << 4 | column, seen.feature, seen.value) if 0 <= row < side and 0 <= column < side else None

    told = story()
    cut = [[[seen for seen in agent if moved(seen)] for agent in step] for step in told]
    there = [[[m for seen in agent if (m := moved(seen))] for agent in step] for step in told]
    if side > 11:  # beyond the policy's window
        there = [[[*agent, Seen(0, "tag", "wall")] for agent in step] for step in there]
    game = TRAINED._replace(side=side)
    assert played(agents_of(exported.player(game)), game, there) == wanted_actions(cut)


def test_draws_follow_the_seed_and_the_probabilities(exported: Exported) -> None:
    told = story(30)
    drawn = [
        played(agents_of(exported.player(TRAINED, greedy=greedy, seed=seed)), TRAINED, told)
        for greedy, seed in ((False, 1), ("false", "1"), (False, 2), ("True", 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[3] == wanted_actions(told) != drawn[0]


def test_actions_that_the_game_lacks_are_never_taken(exported: Exported) -> None:
    told = [[[s for s in seen if s.feature != "last_action"] for seen in step] for step in story()]
    game = TRAINED._replace(actions=["noop", "west"], vibes=["south"])
    for greedy in (True, False):
        names = played(agents_of(exported.player(game, greedy=greedy)), game, told)
        assert {name for step in names for name in step} <= {"noop", "south"}
    with pytest.raises(ValueError, match="has none of this policy's actions"):
        exported.player(TRAINED._replace(actions=["west"]))


def test_features_that_the_game_lacks_are_told_of(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    game = TRAINED._replace(features={"tag": 4})
    with caplog.at_level(logging.WARNING):
        player = exported.player(game)
    assert "never shows what the policy was trained to see: inv:ore, last_action" in caplog.text
    told = [[[s for s in seen if s.feature == "tag"] for seen in step] for step in story()]
    assert played(agents_of(player), game, told) == wanted_actions(told)


def test_an_empty_observation_is_no_trouble(exported: Exported) -> None:
    (action,) = {a.name for a in [agents_of(exported.player(TRAINED))[0].step(AgentObservation(0, []))]}
    assert action in TRAINED.actions


def test_weights_can_be_saved_again(exported: Exported, tmp_path: Path) -> None:
    exported.player(TRAINED).save_policy_data(str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == exported.weights.read_bytes()
