"""Planted mistakes: the layer and the cause that the comparison names."""

from __future__ import annotations

import pytest

from tests.fakes.fast_mutants import MUTANTS, Mutant, OwnLstm, SplitFast
from tests.policies.parity.pairs import compared, spec

ROUNDING = 1e-6  # the shipped agent takes shorter ways than the one that mutants are made of


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.policy.__name__)
def test_the_first_difference_and_its_cause_are_right(mutant: Mutant) -> None:
    section = compared(mutant.policy(spec(mutant.window, mutant.window)), ROUNDING)
    assert not section.holds
    first = section.findings[0]
    assert first.subject == mutant.subject
    assert first.difference is not None and first.difference > 0
    assert first.causes[0].kind == mutant.kind
    assert mutant.words in first.causes[0].text


def test_the_same_mistake_is_found_with_other_random_numbers() -> None:
    """Not every seed for every mutant: one of each part of the network."""
    by_name = {mutant.policy.__name__: mutant for mutant in MUTANTS}
    for name in ("PaddingErasesCellZero", "NoReluAfterCnn2", "ResetsLate", "EmbeddingRowsFromZero"):
        for seed in (1, 2):
            first = compared(by_name[name].policy(spec()), ROUNDING, seed).findings[0]
            assert (first.subject, first.causes[0].kind) == (by_name[name].subject, by_name[name].kind)


def test_the_agent_that_mutants_are_made_of_has_no_mistake() -> None:
    assert compared(SplitFast(spec()), ROUNDING).holds
    assert compared(SplitFast(spec(15, 15)), ROUNDING).holds


def test_another_way_of_computing_the_same_is_equal_within_a_tolerance() -> None:
    """An LSTM written out by hand rounds differently: no alarm at 1e-5, and the truth at 0."""
    assert compared(OwnLstm(spec()), tolerance=1e-5).holds
    exact = compared(OwnLstm(spec()))
    assert not exact.holds
    assert exact.findings[0].difference is not None and exact.findings[0].difference < 1e-5
