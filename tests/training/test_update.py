"""The update against a plain twin, and each of its parts by what it changes."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch

from metta_train.experience.segment_buffer import SegmentBuffer, Segments
from metta_train.policies.weights import WeightAnchors
from metta_train.specs.records import HyperparameterValues, UpdateStats
from metta_train.training.batching import BatchPlan
from metta_train.training.config import TrainerConfig
from metta_train.training.learners.network_pass import NetworkPass, OwnPass
from metta_train.training.nonfinite import NonFiniteError, find_nonfinite
from metta_train.training.optimizers import build_optimizer
from metta_train.training.recording import Recorder
from metta_train.training.rollout import RolloutCollector
from metta_train.training.update import PolicyUpdater, build_updater
from tests.fakes.clock_env import ClockEnv
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy
from tests.training.trainer_config import trainer_config

CPU = torch.device("cpu")
HORIZON, STEPS = 4, 8
VALUES = HyperparameterValues(
    learning_rate=1e-2,
    ppo_clip_coef=0.1,
    ppo_vf_clip_coef=0.1,
    ppo_ent_coef=0.01,
    ppo_l2_reg_loss_coef=0.0,
    ppo_l2_init_loss_coef=0.0,
)


def rollout() -> tuple[SmallRecurrentPolicy, Segments]:
    env = ClockEnv((3, 5, 7, 100), (True, False, True, True), num_agents=2)
    torch.manual_seed(0)
    policy = SmallRecurrentPolicy(env.spec)
    buffer = SegmentBuffer(env.num_rows, STEPS, HORIZON, (3,), torch.float32, policy.state_shapes, CPU)
    collector = RolloutCollector(env, policy, buffer, CPU, torch.Generator().manual_seed(1), "fp32")
    return policy, collector.collect().segments


def plan_of(*, minibatch_segments: int, piece_segments: int | None = None, horizon: int = HORIZON) -> BatchPlan:
    return BatchPlan(
        num_envs=4,
        num_workers=0,
        num_slices=1,
        rows=8,
        steps=STEPS,
        bptt_horizon=horizon,
        batch_size=8 * STEPS,
        minibatch_size=minibatch_segments * horizon,
        max_minibatch_size=(piece_segments or minibatch_segments) * horizon,
        precision="fp32",
        threads=1,
        learners=1,
    )


def updater(
    policy: SmallRecurrentPolicy,
    *,
    minibatch_segments: int = 4,
    piece_segments: int | None = None,
    clip_range: float = 0.0,
    update_epochs: int = 1,
    nonfinite: Literal["stop", "skip", "rollback"] = "stop",
    network: NetworkPass | None = None,
    record: Recorder | None = None,
    **changes: object,
) -> PolicyUpdater:
    base = trainer_config()
    ppo = base.ppo.model_copy(update=changes)
    config: TrainerConfig = base.model_copy(update={"ppo": ppo, "update_epochs": update_epochs, "nonfinite": nonfinite})
    plan = plan_of(minibatch_segments=minibatch_segments, piece_segments=piece_segments)
    generator = torch.Generator().manual_seed(2)
    return build_updater(
        policy,
        build_optimizer(config.optimizer, policy),
        WeightAnchors.of(policy),
        OwnPass(policy, plan.precision, plan.piece_segments) if network is None else network,
        plan,
        config,
        clip_range,
        generator,
        record=record,
    )


def flat(policy: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def plain_update(policy: SmallRecurrentPolicy, segments: Segments, config: TrainerConfig) -> torch.Tensor:
    """One pass of PPO written down step by step: no minibatch machinery, advantages by a loop, textbook Adam."""
    parameters = list(policy.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-2, betas=(0.9, 0.999), eps=1e-12)
    gamma, lam = config.ppo.gamma, config.ppo.gae_lambda

    def advantages(index: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        result = torch.zeros(len(index), HORIZON)
        for i, segment in enumerate(index.tolist()):
            carried = 0.0
            for t in reversed(range(HORIZON)):
                terminated = bool(segments.terminations[segment, t])
                truncated = bool(segments.truncations[segment, t])
                following = (
                    segments.bootstrap_values[segment] if t == HORIZON - 1 else segments.values[segment, t + 1]
                ).item()
                if truncated:
                    following = segments.truncation_values[segment, t].item()
                if terminated:
                    following = 0.0
                weight = min(ratio[i, t].item(), 1.0)
                delta = weight * (
                    segments.rewards[segment, t].item() + gamma * following - segments.values[segment, t].item()
                )
                carried = delta + gamma * lam * weight * carried * (0.0 if terminated or truncated else 1.0)
                result[i, t] = carried
        return result

    everything = torch.arange(segments.num_segments)
    returns = advantages(everything, torch.ones(segments.num_segments, HORIZON)) + segments.values
    for index in torch.randperm(segments.num_segments, generator=torch.Generator().manual_seed(2)).split(4):
        part = segments.select(index)
        output = policy(part.observations, part.state, part.resets)
        log_probabilities = output.logits.log_softmax(-1)
        log_probs = log_probabilities.gather(-1, part.actions.unsqueeze(-1)).squeeze(-1)
        ratio = (log_probs - part.log_probs).exp()
        adv = advantages(index, ratio.detach())
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        policy_loss = torch.max(-adv * ratio, -adv * ratio.clamp(0.9, 1.1)).mean()
        clipped = part.values + (output.values - part.values).clamp(-0.1, 0.1)
        value_loss = 0.5 * torch.max((output.values - returns[index]) ** 2, (clipped - returns[index]) ** 2).mean()
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1).mean()
        loss = policy_loss - 0.01 * entropy + config.ppo.vf_coef * value_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.ppo.max_grad_norm)
        optimizer.step()
    return flat(policy)


def test_equals_the_plain_twin() -> None:
    policy, segments = rollout()
    twin = copy.deepcopy(policy)
    updater(policy).update(segments, VALUES, progress=0.0)
    assert torch.allclose(flat(policy), plain_update(twin, segments, trainer_config()), atol=1e-6)


@pytest.mark.parametrize("norm_adv", [True, False])
def test_pieces_add_up_to_the_gradient_of_the_whole(norm_adv: bool) -> None:
    policy, segments = rollout()
    whole, pieces = copy.deepcopy(policy), copy.deepcopy(policy)
    one = updater(whole, minibatch_segments=8, norm_adv=norm_adv).update(segments, VALUES, progress=0.0)
    four = updater(pieces, minibatch_segments=8, piece_segments=2, norm_adv=norm_adv).update(
        segments, VALUES, progress=0.0
    )
    assert torch.allclose(flat(whole), flat(pieces), atol=1e-6)
    assert not torch.allclose(flat(whole), flat(policy), atol=1e-4)
    assert four.stats.policy_loss == pytest.approx(one.stats.policy_loss, abs=1e-6)
    assert four.stats.grad_norm == pytest.approx(one.stats.grad_norm, rel=1e-4)
    assert four.stats.num_minibatches == one.stats.num_minibatches == 2


def test_before_the_first_step_the_policy_has_not_moved() -> None:
    """One minibatch: every diagnostic describes the weights that acted."""
    policy, segments = rollout()
    stats = updater(policy, minibatch_segments=16).update(segments, VALUES, progress=0.0).stats
    assert stats.importance == pytest.approx(1.0, abs=1e-5)
    assert stats.approx_kl == pytest.approx(0.0, abs=1e-6)
    assert stats.clipfrac == 0.0
    assert stats.current_logprobs == pytest.approx(float(segments.log_probs.mean()), abs=1e-6)


def test_target_kl_ends_the_epoch_early() -> None:
    policy, segments = rollout()
    free = updater(copy.deepcopy(policy), update_epochs=6).update(segments, VALUES, progress=0.0).stats
    stopped = (
        updater(copy.deepcopy(policy), update_epochs=6, target_kl=1e-7).update(segments, VALUES, progress=0.0).stats
    )
    assert free.update_epochs == 6
    assert stopped.update_epochs == 1


@pytest.mark.parametrize("coefficient", ["ppo_l2_reg_loss_coef", "ppo_l2_init_loss_coef"])
def test_weight_penalties_pull_the_weights(coefficient: str) -> None:
    """B4, B5: a coefficient changes the weights, towards zero or towards the initial weights."""
    policy, segments = rollout()
    anchors = WeightAnchors.of(policy)
    plain, pulled = copy.deepcopy(policy), copy.deepcopy(policy)
    quiet = updater(plain, update_epochs=5).update(segments, VALUES, progress=0.0).stats
    values = HyperparameterValues(**{**_fields(VALUES), coefficient: 100.0})
    loud = updater(pulled, update_epochs=5).update(segments, values, progress=0.0).stats

    def distance(trained: SmallRecurrentPolicy) -> float:
        centre = torch.zeros_like(trained.encoder.weight)
        if coefficient == "ppo_l2_init_loss_coef":
            centre = policy.encoder.weight
        return float((trained.encoder.weight - centre).norm().detach())

    assert distance(pulled) < distance(plain)
    assert anchors is not None
    name = coefficient.removeprefix("ppo_").removesuffix("_coef")
    assert getattr(quiet, name) is None
    assert getattr(loud, name) > 0


def test_clip_range_bounds_the_weights() -> None:
    policy, segments = rollout()
    bound = 0.9 * float(policy.encoder.weight.detach().abs().max())
    updater(policy, clip_range=0.9, update_epochs=3).update(segments, VALUES, progress=0.0)
    assert float(policy.encoder.weight.detach().abs().max()) <= bound + 1e-7


def test_gradient_statistics_describe_the_clipped_gradient() -> None:
    policy, segments = rollout()
    update = updater(policy).update(segments, VALUES, progress=0.0, gradient_stats=True)
    assert update.gradients is not None
    assert update.stats.grad_norm > 0.5  # so that max_grad_norm 0.5 was in force
    assert update.gradients.norm == pytest.approx(0.5, abs=0.05)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        # Segment 5 of two per row: row 2 = env 1, agent 0; part 1, so its step 2 is step 4 + 2 + 1 of 8.
        ("rewards", NAN, r"reward is nan in env 1, agent 0, step 7 of 8 of the rollout"),
        ("rewards", INF, r"reward is inf in env 1"),
        ("observations", -INF, r"observation is -inf in env 1, agent 0, step 7 of 8"),
        ("log_probs", NAN, r"log-probability is nan in env 1, agent 0, step 7 of 8"),
        ("bootstrap_values", NAN, r"bootstrap value is nan in env 1, agent 0, step 5 of 8"),
    ],
)
def test_a_number_that_is_not_finite_is_named_before_any_step(tensor: str, value: float, message: str) -> None:
    policy, segments = rollout()
    before = copy.deepcopy(policy.state_dict())
    values = getattr(segments, tensor)
    if tensor == "bootstrap_values":
        values[5] = value
    else:
        values[5, 2] = value
    with pytest.raises(NonFiniteError, match=message):
        updater(policy).update(segments, VALUES, progress=0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("factor", [INF, NAN])
def test_a_gradient_that_is_not_finite_is_named_and_not_applied(number: int, factor: float) -> None:
    policy, segments = rollout()
    name, parameter = list(policy.named_parameters())[number]
    parameter.register_hook(lambda gradient: gradient * factor)
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NonFiniteError, match=f"the gradient of {name} is .*smaller trainer.optimizer.learning_rate"):
        updater(policy).update(segments, VALUES, progress=0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())


def test_skipping_leaves_out_the_steps_that_are_spoilt(caplog: pytest.LogCaptureFixture) -> None:
    policy, segments = rollout()
    segments.rewards[5, 2] = NAN
    update = updater(policy, nonfinite="skip").update(segments, VALUES, progress=0.0)
    assert (update.stats.num_minibatches, update.stats.skipped_minibatches) == (3, 1)
    assert "reward is nan in env 1" in caplog.text
    assert all(bool(torch.isfinite(tensor).all()) for tensor in policy.state_dict().values())


def test_skipping_everything_is_an_end() -> None:
    policy, segments = rollout()
    segments.rewards.fill_(NAN)
    with pytest.raises(NonFiniteError, match="every gradient step"):
        updater(policy, nonfinite="skip").update(segments, VALUES, progress=0.0)


def test_learning_rate_of_the_epoch_is_used() -> None:
    policy, segments = rollout()
    moved = []
    for rate in (1e-2, 1e-4):
        trained = copy.deepcopy(policy)
        values = HyperparameterValues(**{**_fields(VALUES), "learning_rate": rate})
        updater(trained).update(segments, values, progress=0.0)
        moved.append(float((flat(trained) - flat(policy)).abs().max()))
    assert moved[0] == pytest.approx(100 * moved[1], rel=0.2)


def test_stats_are_plain_numbers() -> None:
    policy, segments = rollout()
    stats = updater(policy).update(segments, VALUES, progress=0.0).stats
    assert isinstance(stats, UpdateStats)
    assert all(isinstance(value, float | int) for value in _fields(stats).values() if value is not None)


def _fields(record: HyperparameterValues | UpdateStats) -> dict[str, float]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    _, segments = rollout()
    segments.rewards.fill_(3e38)
    assert not segments.rewards.sum().isfinite()
    plan = plan_of(minibatch_segments=4)
    assert find_nonfinite(segments, plan) is None
    segments.values[0, 0], segments.values[0, 1] = torch.inf, -torch.inf
    found = find_nonfinite(segments, plan)
    assert found is not None and found.startswith("value is inf in env 0, agent 0, step 1 ")
