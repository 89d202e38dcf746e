"""The compiled losses against the formulas, and what happens when somebody changes the formulas."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.specs.records import ActionEvaluation
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training import losses as formulas_file
from metta_train.training.compiled_losses import CompiledLosses, build_losses
from metta_train.training.learners.network_pass import answers_of
from metta_train.training.losses import NUM_MEANS, Coefficients, Column, DifferentiatedLosses, Losses
from tests.training.trainer_config import trainer_config

CPU = torch.device("cpu")


def both(**changes: object) -> tuple[DifferentiatedLosses, CompiledLosses]:
    trainer = trainer_config()
    ppo = trainer.ppo.model_copy(update=changes)
    return DifferentiatedLosses(ppo, trainer.vtrace), CompiledLosses(ppo, trainer.vtrace)


def minibatch_of(num_segments: int, num_steps: int, seed: int, spread: float) -> tuple[Segments, ActionEvaluation]:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_segments, num_steps)

    def drawn(scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def marks() -> Tensor:
        return torch.rand(shape, generator=generator) < 0.2

    segments = Segments(
        observations=torch.zeros(*shape, 1),
        actions=torch.zeros(shape, dtype=torch.int64),
        log_probs=drawn() - 2.0,
        values=drawn(),
        rewards=drawn(),
        terminations=marks(),
        truncations=marks(),
        truncation_values=drawn(),
        resets=marks(),
        state=RecurrentState(()),
        bootstrap_values=drawn()[:, 0].contiguous(),
    )
    moved = ActionEvaluation(segments.log_probs + drawn(spread), drawn().abs(), segments.values + drawn(spread))
    return segments, moved


def numbers(losses: Losses, segments: Segments, evaluation: ActionEvaluation, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    returns = torch.randn(segments.values.shape, generator=generator)
    weights = torch.rand(segments.num_segments, generator=generator)
    means, grads = losses(segments, evaluation, returns, weights, Coefficients(0.2, 0.3, 0.05))
    return means, *answers_of(grads)


@settings(max_examples=60, deadline=None)
@given(
    num_segments=st.integers(1, 9),
    num_steps=st.integers(2, 9),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.1, 1.0]),
    norm_adv=st.booleans(),
    clip_vloss=st.booleans(),
)
def test_compiled_losses_say_what_the_formulas_say(num_segments, num_steps, seed, spread, norm_adv, clip_vloss):
    formulas, compiled = both(norm_adv=norm_adv, clip_vloss=clip_vloss)
    segments, evaluation = minibatch_of(num_segments, num_steps, seed, spread)
    ratio = (evaluation.log_probs - segments.log_probs).exp()
    torch.testing.assert_close(
        compiled.advantages(segments, ratio), formulas.advantages(segments, ratio), rtol=1e-5, atol=1e-5
    )
    expected = numbers(formulas, segments, evaluation, seed)
    assert expected[0].shape == (NUM_MEANS,)
    for found, number in zip(numbers(compiled, segments, evaluation, seed), expected, strict=True):
        torch.testing.assert_close(found, number, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spoilt", "number"),
    [("log_probs", math.nan), ("values", math.nan), ("entropy", math.nan), ("values", math.inf), ("entropy", math.inf)],
)
def test_a_number_that_is_not_finite_reaches_the_total(spoilt, number):
    for losses in both():
        segments, evaluation = minibatch_of(3, 4, seed=1, spread=0.1)
        getattr(evaluation, spoilt)[1, 2] = number
        means, *_ = numbers(losses, segments, evaluation, seed=1)
        assert not means[Column.TOTAL_LOSS].isfinite()


def test_a_value_as_wrong_as_its_clipped_one_has_half_the_gradient():
    # Old 0, now 1, clip 0.25, return 0.625: errors 0.375 and -0.375, and the clipped value does not follow.
    # d 0.5 * mean max(...) = 0.5 * 0.375 / 2, the other value is where it should be.
    segments, _ = minibatch_of(1, 2, seed=0, spread=0.0)
    segments.values[:] = 0.0
    evaluation = ActionEvaluation(segments.log_probs, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    for losses in both(clip_vloss=True, vf_coef=1.0):
        returns, coefficients = torch.tensor([[0.625, 0.0]]), Coefficients(0.2, 0.25, 0.0)
        _, grads = losses(segments, evaluation, returns, torch.ones(1), coefficients)
        assert grads.values.tolist() == [[0.5 * 0.375 / 2, 0.0]]


def test_segments_may_lie_in_any_order_in_memory():
    formulas, compiled = both()
    segments, evaluation = minibatch_of(4, 6, seed=3, spread=0.1)
    turned = segments.map(lambda t: t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() == 2 else t)
    for found, number in zip(*(numbers(losses, turned, evaluation, 3) for losses in (formulas, compiled)), strict=True):
        torch.testing.assert_close(found, number, rtol=1e-4, atol=1e-5)


def built(*, recorded: bool = False) -> Losses:
    trainer = trainer_config()
    return build_losses(trainer.ppo, trainer.vtrace, CPU, recorded=recorded)


def test_the_cpu_takes_the_compiled_ones():
    assert isinstance(built(), CompiledLosses)
    assert isinstance(built(recorded=True), DifferentiatedLosses)


@pytest.mark.parametrize("formula", ["clipped_policy_loss", "clipped_value_loss", "approx_kl", "clip_fraction"])
def test_whoever_changes_a_formula_trains_with_the_change(formula, monkeypatch, caplog):
    former = getattr(formulas_file, formula)
    monkeypatch.setattr(formulas_file, formula, lambda *args: 1.01 * former(*args))
    with caplog.at_level(logging.WARNING):
        assert isinstance(built(), DifferentiatedLosses)
    assert "compiled form is left aside" in caplog.text


def test_so_does_whoever_changes_the_advantages(monkeypatch):
    former = formulas_file.torch_advantages.compute_advantages

    def without_truncation_values(*args, **options):
        values, bootstrap, rewards, terminations, truncations, truncation_values, ratio = args
        zeros = torch.zeros_like(truncation_values)
        return former(values, bootstrap, rewards, terminations, truncations, zeros, ratio, **options)

    monkeypatch.setattr(formulas_file.torch_advantages, "compute_advantages", without_truncation_values)
    assert isinstance(built(), DifferentiatedLosses)
