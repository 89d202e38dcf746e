"""Resets of whole policies, for both fast agents: what a reset means, in any pattern."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metta_train.policies.policy import Policy
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState
from tests.policies.agents import FAST_AGENTS, build, random_observations, token_spec

SPEC = token_spec(num_features=3, num_tokens=8)
POLICIES = {name: build(name, SPEC) for name in FAST_AGENTS}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-5)


@st.composite
def cases(draw) -> tuple[Tensor, RecurrentState, Tensor]:
    rows, steps = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    flags = draw(st.lists(st.booleans(), min_size=rows * steps, max_size=rows * steps))
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    state = RecurrentState(tuple(torch.randn(rows, 2, 128, generator=generator) for _ in range(2)))
    return random_observations(SPEC, rows, steps, seed), state, torch.tensor(flags).view(rows, steps)


@pytest.mark.parametrize("name", FAST_AGENTS)
@settings(max_examples=25)
@given(case=cases(), data=st.data())
def test_a_reset_of_one_row_changes_no_other_row(
    name: str, case: tuple[Tensor, RecurrentState, Tensor], data: st.DataObject
) -> None:
    observations, state, resets = case
    row = data.draw(st.integers(0, resets.shape[0] - 1))
    step = data.draw(st.integers(0, resets.shape[1] - 1))
    other = resets.clone()
    other[row, step] = ~other[row, step]
    first, second = (run(POLICIES[name], observations, state, flags) for flags in (resets, other))
    kept = [k for k in range(resets.shape[0]) if k != row]
    close(first.logits[kept], second.logits[kept])
    close(first.values[kept], second.values[kept])
    for ours, theirs in zip(first.state.tensors, second.state.tensors, strict=True):
        close(ours[kept], theirs[kept])
    # and before that step the row itself
    close(first.logits[row, :step], second.logits[row, :step])
    assert not torch.allclose(first.values[row, step], second.values[row, step], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", FAST_AGENTS)
@settings(max_examples=25)
@given(case=cases())
def test_resets_equal_splitting_each_row_by_hand(name: str, case: tuple[Tensor, RecurrentState, Tensor]) -> None:
    """Each row alone, cut where it resets; every piece behind a cut starts from an empty memory."""
    observations, state, resets = case
    policy = POLICIES[name]
    whole = run(policy, observations, state, resets)
    steps = resets.shape[1]
    for row in range(resets.shape[0]):
        cuts = [0, *[t for t in range(1, steps) if resets[row, t]], steps]
        memory = policy.initial_state(1) if resets[row, 0] else state.rows(slice(row, row + 1))
        for first, end in itertools.pairwise(cuts):
            memory = memory if first == 0 else policy.initial_state(1)
            nothing = torch.zeros(1, end - first, dtype=torch.bool)
            piece = run(policy, observations[row : row + 1, first:end], memory, nothing)
            close(whole.logits[row, first:end], piece.logits[0])
            close(whole.values[row, first:end], piece.values[0])
            memory = piece.state
        for ours, theirs in zip(whole.state.tensors, memory.tensors, strict=True):
            close(ours[row], theirs[0])


@torch.no_grad()
def run(policy: Policy, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
    return policy(observations, state, resets)
