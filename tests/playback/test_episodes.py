"""A policy plays; what is told of it is what happened."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from metta_train.envs.build import make_stage
from metta_train.envs.config import MettaGridEnvConfig
from metta_train.playback import episodes
from metta_train.playback.episodes import Player, PolicySource, cast_of
from metta_train.playback.moments import Moment
from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training import evaluation
from metta_train.training.evaluation import play_fixed_set
from tests.envs.env_configs import env_config

CPU = torch.device("cpu")
CONFIG = env_config("forage", {"task.rooms": 1, "max_steps": 12})


class Remembering(Policy):
    """Counts its steps; what it prefers follows from the count and the row."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec, state_shapes=((1,),))

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        counted = state.tensors[0].masked_fill(resets, 0.0)
        rows = torch.arange(len(counted)).unsqueeze(-1)
        preferred = ((counted.long() + rows) % len(self.spec.actions)).squeeze(-1)
        logits = 2.0 * torch.nn.functional.one_hot(preferred, len(self.spec.actions)).float()
        return PolicyOutput(logits.unsqueeze(1), counted.clone(), RecurrentState((counted + 1,)))


def source(*, greedy: bool, steps: int | None = None, recording: bool = False, seed: int = 3) -> PolicySource:
    assert isinstance(CONFIG, MettaGridEnvConfig)
    stage = make_stage(CONFIG)
    spec = stage.environment.spec
    player = Player(Remembering(spec), CPU, greedy, seed)
    cast = cast_of(spec, "mine:1", stage.environment.episode_limit, "greedy")
    return PolicySource(cast, player, stage, steps=steps, recording=recording)


def played(*, greedy: bool, steps: int | None = None) -> list[Moment]:
    return list(source(greedy=greedy, steps=steps).moments(1))


def test_an_episode_from_its_start_to_its_end() -> None:
    moments = played(greedy=True)
    assert [moment.step for moment in moments] == list(range(13))
    assert [moment.decision is None for moment in moments] == [False] * 12 + [True]
    for moment in moments[:-1]:
        decision = moment.decision
        assert decision is not None and decision.probabilities is not None and decision.values is not None
        assert decision.values.tolist() == [moment.step] * 4, "its memory begins at 0 and goes on"
        assert decision.actions.tolist() == [(moment.step + row) % 5 for row in range(4)]
        np.testing.assert_allclose(decision.probabilities.sum(1), 1.0, rtol=1e-6)
        assert decision.probabilities.argmax(1).tolist() == decision.actions.tolist()
    np.testing.assert_allclose(moments[-1].totals, sum(moment.rewards for moment in moments))
    # Agents stand where their moves lead them.
    scenes = [moment.scene for moment in moments]
    assert all(scene is not None and len(scene.walls) == len(scenes[0].walls) for scene in scenes if scenes[0])


@pytest.mark.parametrize("greedy", [True, False])
def test_the_first_episode_is_metta_evals_to_the_bit(greedy: bool) -> None:
    stage = make_stage(CONFIG)
    (expected,) = play_fixed_set(
        Remembering(stage.environment.spec), CONFIG, num_episodes=1, seed=3, greedy=greedy, device=CPU
    )
    last = played(greedy=greedy)[-1]
    assert (last.step, last.score) == (expected.length, expected.reward)
    assert last.score > 0 or expected.reward == 0


def test_later_episodes_have_metta_evals_maps() -> None:
    assert episodes.GROUP == evaluation.GROUP
    stage = make_stage(CONFIG)
    expected = play_fixed_set(
        Remembering(stage.environment.spec), CONFIG, num_episodes=34, seed=3, greedy=True, device=CPU
    )
    one = source(greedy=True)
    for episode in (2, 32, 33, 34):
        *_, last = one.moments(episode)
        # The preferences of a row depend on its place among all, so only its first room is the same as here.
        assert last.step == expected[episode - 1].length
    first = [next(one.moments(episode)).scene for episode in (1, 2, 33, 1)]
    assert first[0] == first[3] and first[0] != first[1] and first[1] != first[2]


def test_seeds_and_sampling() -> None:
    def actions(**arguments: int | bool) -> list[list[int]]:
        found = source(**arguments).moments(2)  # pyright: ignore[reportArgumentType]
        return [moment.decision.actions.tolist() for moment in found if moment.decision is not None]

    assert actions(greedy=False) == actions(greedy=False)
    assert actions(greedy=False) != actions(greedy=False, seed=4)
    assert actions(greedy=False) != actions(greedy=True)


def test_it_stops_after_the_steps_that_are_wanted() -> None:
    moments = played(greedy=True, steps=5)
    assert moments[-1].step == 5 and moments[-1].decision is None


def test_a_step_is_played_when_it_is_asked_for() -> None:
    one = source(greedy=True)
    moments = one.moments(1)
    next(moments)
    next(moments)
    next(one.moments(1))  # the first one is over with this
    assert next(one.moments(2)).step == 0
