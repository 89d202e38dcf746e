"""The compiled losses against the formulas, and what happens when somebody changes the formulas."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metta_train.specs.records import ActionEvaluation
from metta_train.training import losses as formulas_file
from metta_train.training.compiled_losses import CompiledLosses, build_losses, example, numbers_and_gradients
from metta_train.training.losses import NUM_MEANS, Column, DifferentiatedLosses, Losses
from tests.training.trainer_config import trainer_config

CPU = torch.device("cpu")


def both(**changes: object) -> tuple[DifferentiatedLosses, CompiledLosses]:
    trainer = trainer_config()
    ppo = trainer.ppo.model_copy(update=changes)
    return DifferentiatedLosses(ppo, trainer.vtrace), CompiledLosses(ppo, trainer.vtrace)


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
    minibatch, evaluation = example(num_segments=num_segments, num_steps=num_steps, seed=seed, spread=spread)
    segments = minibatch.segments
    ratio = (evaluation.log_probs - segments.log_probs).exp()
    torch.testing.assert_close(
        compiled.advantages(segments, ratio), formulas.advantages(segments, ratio), rtol=1e-5, atol=1e-5
    )
    expected = numbers_and_gradients(formulas, minibatch, evaluation)
    assert expected[0].shape == (NUM_MEANS,)
    for found, number in zip(numbers_and_gradients(compiled, minibatch, evaluation), expected, strict=True):
        torch.testing.assert_close(found, number, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spoilt", "number"),
    [("log_probs", math.nan), ("values", math.nan), ("entropy", math.nan), ("values", math.inf), ("entropy", math.inf)],
)
def test_a_number_that_is_not_finite_reaches_the_total(spoilt, number):
    for losses in both():
        minibatch, evaluation = example(num_segments=3, num_steps=4, seed=1, spread=0.1)
        getattr(evaluation, spoilt)[1, 2] = number
        means, _ = losses(minibatch, evaluation)
        assert not means[Column.TOTAL_LOSS].isfinite()


def test_a_value_as_wrong_as_its_clipped_one_has_half_the_gradient():
    # Old 0, now 1, clip 0.25, return 0.625: errors 0.375 and -0.375, and the clipped value does not follow.
    # d 0.5 * mean max(...) = 0.5 * 0.375 / 2, the other value is where it should be.
    minibatch, _ = example(num_segments=1, num_steps=2, seed=0, spread=0.0)
    minibatch.segments.values[:] = 0.0
    minibatch.returns[:] = torch.tensor([[0.625, 0.0]])
    evaluation = ActionEvaluation(minibatch.segments.log_probs, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    for losses in both(clip_vloss=True, vf_coef=1.0):
        _, grads = losses(minibatch, evaluation)
        assert grads.values.tolist() == [[0.5 * 0.375 / 2, 0.0]]


def test_segments_may_lie_in_any_order_in_memory():
    minibatch, evaluation = example(num_segments=4, num_steps=6, seed=3, spread=0.1)
    turned = replace(
        minibatch,
        segments=minibatch.segments.map(
            lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() == 2 else tensor
        ),
    )
    formulas, compiled = (numbers_and_gradients(losses, turned, evaluation) for losses in both())
    for found, number in zip(compiled, formulas, strict=True):
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


def test_so_does_whoever_changes_a_gradient_alone(monkeypatch):
    former = formulas_file.clipped_value_loss

    def without_gradient(values, *rest):
        return former(values.detach(), *rest) + 0.0 * values.sum()

    monkeypatch.setattr(formulas_file, "clipped_value_loss", without_gradient)
    assert isinstance(built(), DifferentiatedLosses)


@pytest.mark.parametrize("bound", [0.05, 1.0, 20.0])
def test_so_does_whoever_bounds_the_error_of_values(bound, monkeypatch):
    former = formulas_file.clipped_value_loss

    def bounded(values, old_values, returns, vf_clip_coef):
        return former(values, old_values, values - (values - returns).clamp(-bound, bound), vf_clip_coef)

    monkeypatch.setattr(formulas_file, "clipped_value_loss", bounded)
    assert isinstance(built(), DifferentiatedLosses)


def test_so_does_whoever_changes_the_advantages(monkeypatch):
    former = formulas_file.torch_advantages.compute_advantages

    def without_truncation_values(*args, **options):
        values, bootstrap, rewards, terminations, truncations, truncation_values, ratio = args
        zeros = torch.zeros_like(truncation_values)
        return former(values, bootstrap, rewards, terminations, truncations, zeros, ratio, **options)

    monkeypatch.setattr(formulas_file.torch_advantages, "compute_advantages", without_truncation_values)
    assert isinstance(built(), DifferentiatedLosses)
