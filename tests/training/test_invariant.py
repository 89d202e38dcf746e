"""On the real task with the real network: what training recomputes is what the rollout stored."""

from __future__ import annotations

import pytest
import torch

from metta_train.assembly.policy import build_policy
from metta_train.cli.compose import load_config
from metta_train.envs.build import environment_spec, make_vector_env
from metta_train.experience.segment_buffer import SegmentBuffer
from metta_train.training.rollout import RolloutCollector


@pytest.mark.parametrize("agent", ["agent=fast", "py_agent=fast"])
@pytest.mark.parametrize("env", ["env=forage", "env=arena"])
def test_recomputed_log_probs_equal_the_stored_ones(agent: str, env: str) -> None:
    """Episodes of 13 steps end inside segments of 8; three segments per row; the second rollout starts mid-episode."""
    config = load_config([agent, env, "trainer=smoke", "env.max_steps=13", "run=invariant"])
    spec = environment_spec(config.env)
    policy = build_policy(config, spec, seed=1)
    with torch.no_grad():
        for parameter in policy.parameters():  # the initial logits hardly depend on the memory; these do
            parameter.mul_(3)
    with make_vector_env(config.env, num_envs=3, num_workers=0, num_slices=1, seed=1) as vector_env:
        buffer = SegmentBuffer(
            vector_env.num_rows,
            24,
            8,
            spec.observation.shape,
            torch.uint8,
            policy.state_shapes,
            torch.device("cpu"),
        )
        generator = torch.Generator().manual_seed(1)
        collector = RolloutCollector(vector_env, policy, buffer, torch.device("cpu"), generator, "fp32")
        for _ in range(2):
            segments = collector.collect().segments
            assert bool(segments.resets[:, 1:].any()), "an episode must open inside a segment"
            assert bool(segments.truncations.any())
            with torch.no_grad():
                evaluation = policy.evaluate_actions(
                    segments.observations, segments.actions, segments.state, segments.resets
                )
            ratio = (evaluation.log_probs - segments.log_probs).exp()
            assert float((ratio - 1).abs().max()) < 1e-5
            assert float((evaluation.values - segments.values).abs().max()) < 1e-5
            with torch.no_grad():
                leaking = policy.evaluate_actions(
                    segments.observations, segments.actions, segments.state, torch.zeros_like(segments.resets)
                )
            wrong_ratio = (leaking.log_probs - segments.log_probs).exp()
            assert float((wrong_ratio - 1).abs().max()) > 1e-3, "memory that leaks over an ending must show"
