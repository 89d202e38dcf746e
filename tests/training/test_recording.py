"""What is recorded as a CUDA graph, on machines without one: nothing is frozen into it, nothing waits for a device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from metta_train.assembly.design import design_of
from metta_train.cli.compose import load_config
from metta_train.experience.segment_buffer import SegmentBuffer, Segments
from metta_train.policies.policy import Policy
from metta_train.policies.watched import is_recorded, recorded
from metta_train.policies.weights import WeightAnchors
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.gradient_step import GradientStep
from metta_train.training.learners.network_pass import OwnPass
from metta_train.training.losses import Column
from metta_train.training.nonfinite import NonFiniteError
from metta_train.training.optimizers import PolicyOptimizer, build_optimizer
from metta_train.training.recording import Operations, Recorder, Recording
from metta_train.training.rollout import RolloutCollector
from tests.fakes.clock_env import ClockEnv
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy
from tests.fakes.traced_operations import record_by_tracing
from tests.policies.agents import ALL_AGENTS, build, random_observations, spec_for
from tests.training.test_update import VALUES, rollout, updater
from tests.training.trainer_config import trainer_config

CPU = torch.device("cpu")
SEGMENTS, STEPS = 6, 5
OTHER_VALUES = replace(VALUES, ppo_clip_coef=0.01, ppo_vf_clip_coef=0.02, ppo_ent_coef=0.5, learning_rate=3e-3)


def segments_for(name: str, policy: Policy, seed: int) -> Segments:
    """Random ones, with resets inside and endings of both kinds."""
    spec = spec_for(name)
    generator = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(SEGMENTS, STEPS, generator=generator)

    def flags() -> torch.Tensor:
        return torch.rand(SEGMENTS, STEPS, generator=generator) < 0.25

    return Segments(
        observations=random_observations(spec, SEGMENTS, STEPS, seed),
        actions=torch.randint(len(spec.actions), (SEGMENTS, STEPS), generator=generator),
        log_probs=-normal().abs(),
        values=normal(),
        rewards=normal(),
        terminations=flags(),
        truncations=flags(),
        truncation_values=normal(),
        resets=flags(),
        state=RecurrentState(
            tuple(torch.randn(SEGMENTS, *shape, generator=generator) for shape in policy.state_shapes)
        ),
        bootstrap_values=torch.randn(SEGMENTS, generator=generator),
    )


def step_of(policy: Policy, record: Recorder | None, *, pieces: int = 1) -> GradientStep:
    config = trainer_config()
    return GradientStep(
        policy,
        build_optimizer(config.optimizer, policy),
        WeightAnchors.of(policy),
        OwnPass(policy, "fp32", SEGMENTS // pieces),
        config.ppo,
        config.vtrace,
        clip_range=1.0,
        record=record,
    )


def flat(policy: Policy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


@pytest.mark.parametrize(("name", "pieces"), [*((name, 1) for name in ALL_AGENTS), ("agent=mlp", 3)])
def test_a_recorded_gradient_step_is_the_step_for_every_minibatch(name: str, pieces: int) -> None:
    """The first is recorded; later ones have other numbers, resets and coefficients, and weights that have moved."""
    eager, played = build(name), build(name)
    steps = step_of(eager, None, pieces=pieces), step_of(played, record_by_tracing, pieces=pieces)
    numbers = []
    for seed, values in enumerate((VALUES, OTHER_VALUES, VALUES)):
        minibatch = segments_for(name, eager, seed)
        returns, weights = torch.randn(SEGMENTS, STEPS), torch.rand(SEGMENTS)
        row, again = (step(minibatch, returns, weights, values) for step in steps)
        assert torch.allclose(again, row, rtol=1e-3, atol=1e-4)
        for (parameter, own), other in zip(eager.named_parameters(), played.parameters(), strict=True):
            assert (own.grad is None) == (other.grad is None), parameter
            if own.grad is not None and other.grad is not None:
                assert torch.allclose(other.grad, own.grad, rtol=1e-3, atol=1e-5), parameter
            # Adam makes a whole step of the smallest gradient, whose sign is a matter of rounding.
            other.data.copy_(own.data)
        numbers.append(row)
    assert not torch.allclose(numbers[0], numbers[1], rtol=1e-2)


def test_what_a_recording_freezes_is_noticed() -> None:
    """The tracer stands for a CUDA graph: a number that Python computed stays as it was."""
    factor = [2.0]
    numbers = torch.ones(3)
    play = record_by_tracing(lambda: [numbers * factor[0]])
    factor[0] = 5.0
    numbers.fill_(10.0)
    assert play()[0].tolist() == [20.0] * 3


@pytest.mark.parametrize("name", ALL_AGENTS)
def test_a_gradient_step_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no numbers: whoever asks for one fails, as does a shape that depends on one."""

    def again(operations: Operations, generators: Sequence[torch.Generator]) -> Operations:
        def play() -> Sequence[torch.Tensor]:
            with recorded():
                return operations()

        return play

    policy = build(name)
    minibatch = segments_for(name, policy, 0).map(lambda tensor: tensor.to("meta"))
    policy.to("meta")
    step = step_of(policy, again)
    asked = []
    # Its kernels exist on the CPU and CUDA alone: test_optimizers.py asks whether they wait.
    monkeypatch.setattr(PolicyOptimizer, "step", lambda self, leave_out, threads: asked.append(leave_out.device.type))
    for _ in range(2):
        row = step(minibatch, torch.empty(SEGMENTS, STEPS, device="meta"), torch.empty(SEGMENTS, device="meta"), VALUES)
        assert row.shape == (len(Column),)
    assert asked == ["meta"] * 2


@pytest.mark.parametrize("name", ALL_AGENTS)
def test_a_decision_waits_for_nothing(name: str) -> None:
    policy = build(name)
    observations = random_observations(spec_for(name), 4, 1)[:, 0].to("meta")
    policy.to("meta")
    resets = torch.zeros(4, dtype=torch.bool, device="meta")
    for inside in (False, True):
        if inside:
            with recorded():
                step = policy.act(observations, policy.initial_state(4), resets)
        else:
            step = policy.act(observations, policy.initial_state(4), resets)
        assert step.actions.shape == (4,)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_rollouts_are_rollouts(precision: str) -> None:
    """Two rollouts of two slices with endings of both kinds; between them the weights move."""
    recordings: list[Operations] = []

    def record_and_note(operations: Operations, generators: Sequence[torch.Generator]) -> Operations:
        recordings.append(record_by_tracing(operations, generators))
        return recordings[-1]

    both = []
    for record in (None, record_and_note):
        env = ClockEnv((3, 5, 7, 100), (True, False, True, True), num_agents=2, num_slices=2)
        torch.manual_seed(0)
        policy = SmallRecurrentPolicy(env.spec)
        buffer = SegmentBuffer(env.num_rows, STEPS, STEPS, (3,), torch.float32, policy.state_shapes, CPU)
        generator = torch.Generator().manual_seed(1)
        collector = RolloutCollector(env, policy, buffer, CPU, generator, precision, record=record)
        first = collector.collect().segments.map(torch.clone)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.5)
        both.append([*first.tensors(), *collector.collect().segments.tensors(), *collector.memory().state.tensors])
    assert len(recordings) == 2, "one for each slice"
    assert all(state.abs().max() > 0.1 for state in both[0][-1:])
    for eager, played in zip(*both, strict=True):
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        assert torch.allclose(played.float(), eager.float(), atol=tolerance, rtol=tolerance)


def test_a_whole_update_with_recorded_steps() -> None:
    policy, segments = rollout()
    other = copy.deepcopy(policy)
    first = updater(policy, update_epochs=3).update(segments, VALUES, progress=0.0).stats
    second = updater(other, update_epochs=3, record=record_by_tracing).update(segments, VALUES, progress=0.0).stats
    assert torch.allclose(flat(other), flat(policy), atol=1e-6)
    assert second.policy_loss == pytest.approx(first.policy_loss, abs=1e-5)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-4)


def test_steps_that_are_not_finite_are_left_out_without_looking(caplog: pytest.LogCaptureFixture) -> None:
    policy, segments = rollout()
    segments.rewards[5, 2] = float("nan")
    twin = copy.deepcopy(policy)
    looked = updater(twin, nonfinite="skip").update(segments, VALUES, progress=0.0).stats
    left_out = updater(policy, nonfinite="skip", record=record_by_tracing).update(segments, VALUES, progress=0.0).stats
    assert (left_out.num_minibatches, left_out.skipped_minibatches) == (3, 1)
    assert (looked.num_minibatches, looked.skipped_minibatches) == (3, 1)
    assert torch.allclose(flat(policy), flat(twin), atol=1e-6)
    assert "policy_loss is nan in gradient step" in caplog.text or "total_loss is nan in gradient step" in caplog.text


def test_a_step_that_is_not_finite_ends_a_recorded_update() -> None:
    policy, segments = rollout()
    before = flat(policy).clone()
    parameter = next(iter(policy.parameters()))
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match=r"grad_norm is .* in gradient step 1 of 4.*smaller trainer.optimizer"):
        updater(policy, record=record_by_tracing).update(segments, VALUES, progress=0.0)
    assert torch.equal(flat(policy), before)


def test_skipping_every_recorded_step_is_an_end() -> None:
    policy, segments = rollout()
    segments.rewards.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="every gradient step"):
        updater(policy, nonfinite="skip", record=record_by_tracing).update(segments, VALUES, progress=0.0)


def test_what_cannot_be_recorded_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(operations: Operations, generators: Sequence[torch.Generator]) -> Operations:
        raise RuntimeError("operation not permitted when stream is capturing")

    seen = []

    def double(tensor: torch.Tensor) -> list[torch.Tensor]:
        seen.append(is_recorded())
        return [2 * tensor]

    recording = Recording("doubling", double, refuse)
    assert [recording(torch.tensor(float(number)))[0].item() for number in (1, 2, 3)] == [2, 4, 6]
    assert seen == [False] * 3
    assert caplog.text.count("doubling cannot be recorded and runs without a CUDA graph: operation not permitted") == 1


def test_no_memory_is_no_reason_to_go_on() -> None:
    def exhaust(operations: Operations, generators: Sequence[torch.Generator]) -> Operations:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Recording("doubling", lambda tensor: [2 * tensor], exhaust)(torch.zeros(()))


def test_recording_needs_cuda() -> None:
    config = load_config(["trainer=smoke", "device=cpu", "trainer.cuda_graphs=true"])
    with pytest.raises(ValueError, match=r"^trainer.cuda_graphs=true needs a CUDA device, got cpu: use trainer.cuda_g"):
        design_of(config)
