"""Play whole episodes with the present weights, on envs and seeds that training never sees."""

from __future__ import annotations

from collections.abc import Callable

import torch

from metta_train.envs.vector import VectorEnv
from metta_train.policies.policy import Policy
from metta_train.specs.records import EvaluationScores


@torch.inference_mode()
def evaluate(
    policy: Policy,
    env: VectorEnv,
    *,
    num_episodes: int,
    device: torch.device,
    generator: torch.Generator,
    category: str,
    epoch: int,
    check: Callable[[], None] = lambda: None,
) -> EvaluationScores:
    """Mean episode reward per agent over the first `num_episodes` full episodes of each env slot, in slot order.

    Actions are sampled, as in training. Recurrent state is zeroed where an episode opens. Every slot plays the same
    number of episodes, so that short episodes are not counted more often than long ones.

    Args:
        policy: on `device`.
        env: freshly made, with one slice; closed by the caller.
        num_episodes: at least the number of env slots, a multiple of it.
        device: where the policy lives.
        generator: for sampling.
        category: the name of what is evaluated, as it appears in metric names.
        epoch: the epoch whose weights these are.
        check: called before every step; what it raises abandons the evaluation.
    """
    assert env.num_slices == 1 and num_episodes % env.num_envs == 0
    rewards: dict[int, list[float]] = {slot: [] for slot in range(env.num_envs)}
    wanted = num_episodes // env.num_envs
    observations = torch.from_numpy(env.reset()).to(device)
    resets = torch.ones(env.num_rows, dtype=torch.bool, device=device)
    state = policy.initial_state(env.num_rows, device)
    while min(len(played) for played in rewards.values()) < wanted:
        check()
        decision = policy.act(observations, state, resets, generator)
        env.send(0, decision.actions.cpu().numpy())
        result = env.receive(0)
        for episode in result.episodes:
            if not episode.shortened and len(rewards[episode.env]) < wanted:
                rewards[episode.env].append(episode.reward)
        observations = torch.from_numpy(result.observations).to(device)
        resets = torch.from_numpy(result.terminations | result.truncations).to(device)
        state = decision.state
    scores = [reward for slot in range(env.num_envs) for reward in rewards[slot]]
    return EvaluationScores(category=category, score=sum(scores) / len(scores), episodes=len(scores), epoch=epoch)
