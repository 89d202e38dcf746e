"""The time convention: what is stored at step t, for every row, over episode ends, segment ends and rollout ends."""

from __future__ import annotations

import pytest
import torch

from metta_train.experience.segment_buffer import SegmentBuffer
from metta_train.training.rollout import Rollout, RolloutCollector
from tests.fakes.clock_env import ClockEnv
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy

CPU = torch.device("cpu")
HORIZON = 4
# Ends inside segments, on segment ends, and never; terminations and truncations; every env its own length.
LENGTHS = (3, 4, 5, 8, 1, 100)
TRUNCATES = (True, False, True, True, False, True)


def collector(
    *, steps: int = 12, slices: int = 1, lengths: tuple[int, ...] = LENGTHS
) -> tuple[RolloutCollector, SmallRecurrentPolicy]:
    env = ClockEnv(lengths, TRUNCATES[: len(lengths)], num_agents=2, num_slices=slices)
    torch.manual_seed(0)
    policy = SmallRecurrentPolicy(env.spec)
    buffer = SegmentBuffer(env.num_rows, steps, HORIZON, (3,), torch.float32, policy.state_shapes, CPU)
    generator = torch.Generator().manual_seed(1)
    return RolloutCollector(env, policy, buffer, CPU, generator, "fp32"), policy


def by_row(rollout: Rollout, name: str) -> torch.Tensor:
    """[R, L, ...] of a stored field."""
    tensor: torch.Tensor = getattr(rollout.segments, name)
    rows = 2 * len(LENGTHS)
    return tensor.reshape(rows, -1, *tensor.shape[2:])


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_each_step_holds_its_observation_and_the_consequences_of_its_action(slices: int) -> None:
    collect, _ = collector(slices=slices)
    for number in range(3):
        rollout = collect.collect()
        observations, rewards = by_row(rollout, "observations"), by_row(rollout, "rewards")
        actions, resets = by_row(rollout, "actions"), by_row(rollout, "resets")
        terminations, truncations = by_row(rollout, "terminations"), by_row(rollout, "truncations")
        for row in range(rewards.shape[0]):
            length, truncates = LENGTHS[row // 2], TRUNCATES[row // 2]
            for step in range(12):
                time = number * 12 + step  # since the start of the run
                clock, episode = time % length, time // length
                assert observations[row, step].tolist() == [row, episode, clock]
                assert rewards[row, step].item() == pytest.approx(row + clock / 100 + actions[row, step].item() / 10000)
                assert resets[row, step].item() == (clock == 0)
                ends = clock == length - 1
                assert terminations[row, step].item() == (ends and not truncates)
                assert truncations[row, step].item() == (ends and truncates)


def test_no_action_is_spent_on_a_final_observation() -> None:
    """Clock values of stored observations stay below the episode's length: the last one is never acted on."""
    rollout = collector()[0].collect()
    clocks = by_row(rollout, "observations")[..., 2]
    lengths = torch.tensor(LENGTHS).repeat_interleave(2).unsqueeze(1)
    assert bool((clocks < lengths).all())


@pytest.mark.parametrize("slices", [1, 3])
def test_recomputed_log_probs_and_values_equal_the_stored_ones(slices: int) -> None:
    """Three segments per row, ends inside segments, and state that is carried from rollout to rollout."""
    collect, policy = collector(slices=slices)
    for _ in range(3):
        segments = collect.collect().segments
        with torch.no_grad():
            evaluation = policy.evaluate_actions(
                segments.observations, segments.actions, segments.state, segments.resets
            )
        ratio = (evaluation.log_probs - segments.log_probs).exp()
        assert float((ratio - 1).abs().max()) < 1e-5
        assert torch.allclose(evaluation.values, segments.values, atol=1e-6)


def test_state_reaches_over_segment_and_rollout_ends_but_not_over_episode_ends() -> None:
    """Row 10 (env of length 100) is played again from its very first observation, without any cut."""
    collect, policy = collector()
    rollouts = [collect.collect() for _ in range(2)]
    observations = torch.cat([by_row(r, "observations")[10].clone() for r in rollouts[1:]])
    assert observations[0].tolist() == [10, 0, 12]
    stored = by_row(rollouts[1], "values")[10]
    whole = torch.stack([torch.tensor([10.0, 0.0, float(t)]) for t in range(24)]).unsqueeze(0)
    resets = torch.zeros(1, 24, dtype=torch.bool)
    resets[0, 0] = True
    with torch.no_grad():
        values = policy(whole, policy.initial_state(1), resets).values[0]
    assert torch.allclose(stored, values[12:], atol=1e-6)


def test_truncation_value_is_that_of_the_final_observation_with_the_state_of_that_moment() -> None:
    """Env 2 (row 4) is truncated after 5 steps: V([4, 0, 5]) with the state after the fifth observation."""
    collect, policy = collector()
    rollout = collect.collect()
    truncation_values = by_row(rollout, "truncation_values")
    episode = torch.stack([torch.tensor([4.0, 0.0, float(t)]) for t in range(6)]).unsqueeze(0)
    resets = torch.zeros(1, 6, dtype=torch.bool)
    resets[0, 0] = True
    with torch.no_grad():
        expected = policy(episode, policy.initial_state(1), resets).values[0, 5]
    assert truncation_values[4, 4].item() == pytest.approx(expected.item(), abs=1e-6)
    truncations = by_row(rollout, "truncations")
    assert bool((truncation_values[~truncations] == 0).all())


def test_bootstrap_value_is_that_of_the_next_observation() -> None:
    collect, _ = collector()
    first = collect.collect()
    ends = first.segments.bootstrap_values.reshape(-1, 3).clone()
    inner = by_row(first, "values")[:, [4, 8]].clone()
    second = collect.collect()
    assert torch.equal(ends[:, :2], inner)
    assert torch.allclose(ends[:, 2], by_row(second, "values")[:, 0], atol=1e-6)


def test_slices_change_nothing_but_the_order_of_sampling() -> None:
    """Observations do not depend on the number of slices (the fake's do not depend on actions)."""
    one, three = collector(slices=1)[0].collect(), collector(slices=3)[0].collect()
    assert torch.equal(one.segments.observations, three.segments.observations)
    assert torch.equal(one.segments.resets, three.segments.resets)


def test_statistics_count_every_agent_step_and_episode() -> None:
    rollout = collector()[0].collect()
    assert rollout.stats.agent_steps == 12 * 12
    # In 12 steps: 12/3 + 12/4 + 12//5 + 12//8 + 12/1 + 0 episodes.
    assert len(rollout.stats.episodes) == 4 + 3 + 2 + 1 + 12
    assert rollout.stats.rewards == pytest.approx(float(rollout.segments.rewards.mean()))
    assert 0 <= rollout.env_seconds <= rollout.seconds
