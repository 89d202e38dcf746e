"""Actions drawn and evaluated by kernels against their slow twins in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metta_train.policies.action_distribution import log_probs_and_entropy, sample
from metta_train.policies.actor_head import EmbeddingActor
from metta_train.policies.held_weights import weights_held
from metta_train.policies.watched import recorded


def torchs(function, *arguments):
    """What torch's operations give, which the kernels step aside for."""
    with recorded():
        return function(*arguments)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
def test_draws_are_those_of_torch(rows, actions, scale, bf16):
    logits = torch.randn(rows, actions, generator=torch.Generator().manual_seed(rows)) * scale
    logits = logits.bfloat16() if bf16 else logits
    (drawn, log_probs), (other, other_log_probs) = (
        run(sample, logits, torch.Generator().manual_seed(actions)) for run in (lambda f, *a: f(*a), torchs)
    )
    assert drawn.dtype == torch.int64 and log_probs.dtype == torch.float32
    assert torch.equal(drawn, other)  # unless two scores are equal but for rounding, which these are not
    torch.testing.assert_close(log_probs, other_log_probs, rtol=1e-5, atol=1e-5)


def test_draws_have_the_probabilities_of_the_logits():
    logits = torch.tensor([0.5, -1.0, 0.0, 1.5]).expand(200_000, 4)
    actions, log_probs = sample(logits, torch.Generator().manual_seed(0))
    shares = torch.bincount(actions, minlength=4) / 200_000
    expected = logits[0].softmax(0)
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / 200_000).sqrt()).all()
    torch.testing.assert_close(log_probs, expected.log()[actions], rtol=1e-5, atol=1e-5)


def test_impossible_actions_are_never_drawn_and_have_no_share_of_the_entropy():
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf, -torch.inf, 3.0]]).repeat(500, 1).requires_grad_()
    actions, _ = sample(logits.detach(), torch.Generator().manual_seed(0))
    assert (actions[::2] != 1).all() and (actions[1::2] == 2).all()
    log_probs, entropy = log_probs_and_entropy(logits, actions)
    torch.testing.assert_close(entropy[:2], torch.tensor([2.0, 1.0]).log())
    (log_probs.sum() + entropy.sum()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and (logits.grad[::2, 1] == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_a_draw_is_still_an_action(value):
    logits = torch.zeros(2, 3)
    logits[0, 1] = value
    actions, log_probs = sample(logits, torch.Generator().manual_seed(0))
    assert ((actions >= 0) & (actions < 3)).all()
    assert log_probs[0].isnan() and log_probs[1].isfinite()
    log_probs, entropy = log_probs_and_entropy(logits, actions)
    assert log_probs[0].isnan() and entropy[0].isnan() and entropy[1].isfinite()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    steps=st.integers(1, 5),
    actions=st.integers(1, 12),
    scale=st.sampled_from([0.01, 1.0, 20.0]),
)
def test_evaluations_and_gradients_are_those_of_torch(rows, steps, actions, scale):
    generator = torch.Generator().manual_seed(rows * steps)
    logits = torch.randn(rows, steps, actions, generator=generator) * scale
    stored = torch.randint(actions, (rows, steps), generator=generator)
    downstream = torch.randn(2, rows, steps, generator=generator)
    found = []
    for run in (lambda f, *a: f(*a), torchs):
        leaf = logits.clone().requires_grad_()
        log_probs, entropy = run(log_probs_and_entropy, leaf, stored)
        (gradient,) = torch.autograd.grad((downstream * torch.stack([log_probs, entropy])).sum(), [leaf])
        found.append((log_probs.detach(), entropy.detach(), gradient))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_a_draw_and_its_evaluation_have_the_same_log_prob_to_the_bit():
    """Else the ratio of the first gradient step would not be 1."""
    logits = torch.randn(1000, 7) * 3
    actions, log_probs = sample(logits, None)
    assert torch.equal(log_probs_and_entropy(logits.unsqueeze(1), actions.unsqueeze(1))[0].squeeze(1), log_probs)


def scores_and_gradients(actor, hidden, embeddings, downstream, bf16):
    leaves = [hidden.clone().requires_grad_(), embeddings.clone().requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = actor(*leaves)
    gradients = torch.autograd.grad((logits.float() * downstream).sum(), [*leaves, actor.weight, actor.bias])
    return [tensor.detach().float() for tensor in (logits, *gradients)]


def actor_of(hidden_size, embedding_size):
    actor = EmbeddingActor(hidden_size, embedding_size)
    nn.init.normal_(actor.weight, std=hidden_size**-0.5)
    nn.init.normal_(actor.bias)
    return actor


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 150), hidden=st.integers(1, 40), size=st.integers(1, 20), actions=st.integers(1, 9))
def test_scores_of_actions_and_gradients_are_those_of_torch(rows, hidden, size, actions):
    torch.manual_seed(rows)
    actor, inputs, embeddings = actor_of(hidden, size), torch.randn(rows, hidden), torch.randn(actions, size)
    downstream = torch.randn(rows, actions)
    fast = scores_and_gradients(actor, inputs, embeddings, downstream, bf16=False)
    plain = torchs(scores_and_gradients, actor, inputs, embeddings, downstream, False)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "hidden", "size"), [(150, 512, 16), (7, 64, 32), (40, 100, 16), (40, 64, 10)])
def test_scores_of_actions_in_bfloat16_are_as_exact_as_torchs(rows, hidden, size):
    """The last two sizes do not fit into tiles."""
    torch.manual_seed(0)
    actor, inputs, embeddings = actor_of(hidden, size), torch.randn(rows, hidden), torch.randn(5, size)
    downstream = torch.randn(rows, 5)
    exact = torchs(scores_and_gradients, actor, inputs, embeddings, downstream, False)
    fast = scores_and_gradients(actor, inputs, embeddings, downstream, bf16=True)
    plain = torchs(scores_and_gradients, actor, inputs, embeddings, downstream, True)
    for one, other, truth in zip(fast, plain, exact, strict=True):
        assert (one - truth).abs().mean() <= 1.5 * (other - truth).abs().mean() + 1e-5
        assert (one - truth).abs().mean() <= 0.05 * truth.abs().mean()


def test_scores_without_gradients_and_with_held_weights_are_the_same():
    actor, inputs, embeddings = actor_of(64, 16), torch.randn(70, 64), torch.randn(5, 16)
    for bf16 in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = actor(inputs, embeddings)
            with torch.no_grad(), weights_held():
                assert torch.equal(actor(inputs, embeddings), logits)
                assert torch.equal(actor(inputs, embeddings), logits)
