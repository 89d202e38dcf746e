"""Episodes that are counted: whole, equally many of each slot, with memory that begins anew."""

from __future__ import annotations

import torch
from torch import Tensor

from metta_train import load_config
from metta_train.envs.build import environment_spec
from metta_train.policies.policy import Policy
from metta_train.policies.uniform import UniformPolicy
from metta_train.reporting.statistics import summary
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.evaluation import EvaluationEnv, evaluate, play_episodes, play_fixed_set
from tests.fakes.clock_env import ClockEnv

CPU = torch.device("cpu")


class CountingPolicy(Policy):
    """Its memory counts the steps since the last reset, and the clock of the observation must agree."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec, state_shapes=((1,),))
        self.logits = torch.tensor([0.0, 3.0, 1.0])
        self.steps = 0

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        counted = state.tensors[0].masked_fill(resets, 0.0)
        assert counted.squeeze(-1).tolist() == observations[:, 0, 2].tolist()
        self.steps += 1
        rows = observations.shape[0]
        return PolicyOutput(self.logits.expand(rows, 1, 3), torch.zeros(rows, 1), RecurrentState((counted + 1,)))


def test_memory_begins_anew_with_every_episode_and_all_slots_play_equally_many() -> None:
    env = ClockEnv([3, 7, 5], [True, False, True])
    policy = CountingPolicy(env.spec)
    seen: list[int] = []
    episodes = play_episodes(policy, env, num_episodes=6, device=CPU, generator=None, check=seen.append)
    assert [(episode.env, episode.length) for episode in episodes] == [(0, 3), (0, 3), (1, 7), (1, 7), (2, 5), (2, 5)]
    assert policy.steps == 14, "until the slowest slot has played its two"
    assert seen[0] == 0 and seen[-1] == 5 and seen == sorted(seen)


def test_greedy_takes_the_most_probable_action_and_sampling_follows_its_generator() -> None:
    class Watching(ClockEnv):
        actions: list[list[int]]

        def send(self, index, actions):
            self.actions.append(actions.tolist())
            super().send(index, actions)

    def actions(generator: torch.Generator | None) -> list[list[int]]:
        env = Watching([20], [True], num_agents=4)
        env.actions = []
        play_episodes(CountingPolicy(env.spec), env, num_episodes=1, device=CPU, generator=generator)
        return env.actions

    assert actions(None) == [[1] * 4] * 20
    sampled = actions(torch.Generator().manual_seed(5))
    assert sampled != actions(None) and sampled == actions(torch.Generator().manual_seed(5))


def test_an_evaluation_plays_the_fixed_set_of_every_environment_and_its_score_is_the_mean_of_their_means() -> None:
    config = load_config(["agent=mlp", "env=gymnasium", "env.id=CartPole-v1"])
    spec = environment_spec(config.env)
    policy = UniformPolicy(spec)
    short = config.env.model_copy(update={"max_steps": 10})
    scores = evaluate(
        [EvaluationEnv("pole", config.env, policy), EvaluationEnv("short", short, policy)],
        category="both",
        num_episodes=5,
        seed=3,
        device=CPU,
        epoch=7,
    )
    assert (scores.category, scores.episodes, scores.epoch) == ("both", 10, 7)
    played = play_fixed_set(policy, config.env, num_episodes=5, seed=3, greedy=False, device=CPU)
    pole, cut = scores.environments
    assert pole.environment == "pole" and pole.summary == summary([episode.reward for episode in played])
    assert pole.mean_length == sum(episode.length for episode in played) / 5
    assert cut.summary.largest == 10.0, "the environment with its own length"
    assert scores.score == (pole.summary.mean.value + cut.summary.mean.value) / 2
