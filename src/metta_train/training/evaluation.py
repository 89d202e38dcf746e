"""Play whole episodes with the present weights, on envs and seeds that training never sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from metta_train.envs.build import make_vector_env
from metta_train.envs.config import EnvConfig
from metta_train.envs.vector import VectorEnv
from metta_train.policies.held_weights import weights_held
from metta_train.policies.policy import Policy
from metta_train.reporting.statistics import summary
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import EnvironmentScores, EpisodeRecord, EvaluationScores

# Episodes of a fixed set that are played side by side. Part of what such a set is: the episodes of one group share
# their sampling noise, so another number would be another set of episodes.
GROUP = 32
SEED = 0  # of a fixed set whose seed nobody names


@dataclass(frozen=True, slots=True)
class EvaluationEnv:
    """One environment of an evaluation, and the policy that plays on it: the trained one, or one of its weights."""

    name: str
    config: EnvConfig
    policy: Policy


def evaluate(
    envs: Sequence[EvaluationEnv],
    *,
    category: str,
    num_episodes: int,
    seed: int,
    device: torch.device,
    epoch: int,
    check: Callable[[], None] = lambda: None,
) -> EvaluationScores:
    """Play the fixed set of episodes in every environment, with sampled actions, as `metta-eval` does.

    Args:
        envs: at least one; policies on `device`.
        category: the name of what is evaluated, as it appears in metric names.
        num_episodes: in each of them.
        seed: of maps and sampling: the same every time, so that scores differ by the weights alone.
        device: where the policies live.
        epoch: the epoch whose weights these are.
        check: called before every step; what it raises abandons the evaluation.
    """
    scores = []
    for env in envs:
        episodes = play_fixed_set(
            env.policy,
            env.config,
            num_episodes=num_episodes,
            seed=seed,
            greedy=False,
            device=device,
            told=lambda _: check(),
        )
        scores.append(
            EnvironmentScores(
                environment=env.name,
                summary=summary([episode.reward for episode in episodes]),
                mean_length=sum(episode.length for episode in episodes) / len(episodes),
            )
        )
    return EvaluationScores(
        category=category,
        score=sum(of_one.summary.mean.value for of_one in scores) / len(scores),
        episodes=num_episodes * len(scores),
        epoch=epoch,
        environments=tuple(scores),
    )


@torch.inference_mode()
@weights_held()
def play_episodes(
    policy: Policy,
    env: VectorEnv,
    *,
    num_episodes: int,
    device: torch.device,
    generator: torch.Generator | None,
    check: Callable[[int], None] = lambda _: None,
) -> tuple[EpisodeRecord, ...]:
    """The first `num_episodes` full episodes, an equal number of each env slot, in slot order.

    Recurrent state is zeroed where an episode opens. Every slot plays the same number of episodes, so that short
    episodes are not counted more often than long ones.

    Args:
        policy: on `device`.
        env: freshly made, with one slice; closed by the caller.
        num_episodes: at least the number of env slots, a multiple of it.
        device: where the policy lives.
        generator: samples actions; None takes the most probable one.
        check: called before every step with the number of episodes played; what it raises abandons the evaluation.
    """
    assert env.num_slices == 1 and num_episodes % env.num_envs == 0
    played: dict[int, list[EpisodeRecord]] = {slot: [] for slot in range(env.num_envs)}
    wanted = num_episodes // env.num_envs
    observations = torch.from_numpy(env.reset()).to(device)
    resets = torch.ones(env.num_rows, dtype=torch.bool, device=device)
    state = policy.initial_state(env.num_rows, device)
    while min(len(of_slot) for of_slot in played.values()) < wanted:
        check(sum(len(of_slot) for of_slot in played.values()))
        if generator is None:
            output = policy(observations.unsqueeze(1), state, resets.unsqueeze(1))
            actions, state = output.logits.squeeze(1).argmax(dim=-1), output.state
        else:
            decision = policy.act(observations, state, resets, generator)
            actions, state = decision.actions, decision.state
        env.send(0, actions.cpu().numpy())
        result = env.receive(0)
        for episode in result.episodes:
            if not episode.shortened and len(played[episode.env]) < wanted:
                played[episode.env].append(episode)
        observations = torch.from_numpy(result.observations).to(device)
        resets = torch.from_numpy(result.terminations | result.truncations).to(device)
    return tuple(episode for slot in range(env.num_envs) for episode in played[slot])


def play_fixed_set(
    policy: Policy,
    config: EnvConfig,
    *,
    num_episodes: int,
    seed: int,
    greedy: bool,
    device: torch.device,
    num_workers: int = 0,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[EpisodeRecord, ...]:
    """Episodes that depend on the policy, the environment and the seed alone; none of them is cut short.

    The maps of the first n episodes are the same whatever the number of episodes, and for every policy.

    Args:
        policy: on `device`.
        config: of the environment.
        num_episodes: 1 or more.
        seed: of maps and sampling.
        greedy: take the most probable action instead of a sampled one.
        device: where the policy lives.
        num_workers: processes that step the envs; 0 = this one.
        told: called before every step with the number of episodes played.
    """
    config = config.model_copy(update={"desync_episodes": False})
    streams = derived_seed(seed, "evaluation")
    played: list[EpisodeRecord] = []
    for group, start in enumerate(range(0, num_episodes, GROUP)):
        count = min(GROUP, num_episodes - start)
        noise = torch.Generator(device).manual_seed(derived_seed(streams, "rank", group, "sampling"))
        with make_vector_env(
            config, num_envs=count, num_workers=min(num_workers, count), num_slices=1, seed=streams, rank=group
        ) as env:
            played += play_episodes(
                policy,
                env,
                num_episodes=count,
                device=device,
                generator=None if greedy else noise,
                check=lambda done, before=start: told(before + done),
            )
    return tuple(replace(episode, env=number) for number, episode in enumerate(played))
