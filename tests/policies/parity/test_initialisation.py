from __future__ import annotations

import math

import pytest
import torch

from metta_train.policies.initialization import (
    Constant,
    EmbeddingMaxAbs,
    LstmInputBias,
    Normal,
    Orthogonal,
    UniformRange,
)
from metta_train.policies.parity.initialisation import compare_initialisation, describe, gain_of
from metta_train.policies.policy import Policy
from tests.fakes.fast_mutants import SplitFast
from tests.policies.agents import build
from tests.policies.parity.pairs import TITLES, spec


def section_of(candidate: Policy, seed: int = 3):
    candidate.initialize(seed)
    names = {name: name for name, _ in candidate.named_parameters()}
    return compare_initialisation(build("agent=fast", spec(), seed=seed), candidate, names, TITLES, 0.0)


def changed(**initial_values) -> SplitFast:
    policy = SplitFast(spec())
    for name, initializer in initial_values.items():
        policy.init_with(name.replace("__", "."), initializer)
    return policy


def test_the_two_fast_agents_start_equal() -> None:
    section = section_of(build("py_agent=fast", spec()))
    assert section.holds and section.largest_difference == 0.0
    assert len(section.measurements) == 25


@pytest.mark.parametrize(
    ("policy", "subject", "message"),
    [
        (changed(critic_1__weight=Orthogonal(1.0)), "critic_1.weight", "critic_1: gain 1.00 against 1.41"),
        (changed(fc1__weight=Orthogonal(math.sqrt(2))), "fc1.weight", "fc1: gain 1.41 against 1.00"),
        (changed(core__bias_ih_l0=LstmInputBias("ones")), "core.bias_ih_l0", "all 1 against gates i 0, f 1, g 0, o 0"),
        (changed(cnn1__bias=Constant(0.5)), "cnn1.bias", "all 0.5 against all 0"),
        (changed(fc1__weight=UniformRange(0.1)), "fc1.weight", "uniform +-0.1 against orthogonal, gain 1.00"),
    ],
)
def test_other_distributions_are_described(policy: SplitFast, subject: str, message: str) -> None:
    findings = section_of(policy).findings
    assert [finding.subject for finding in findings] == [subject]
    assert message in findings[0].message


def test_another_stream_of_the_same_distribution_is_told_apart() -> None:
    """Reference B18: the same seed, another order of creation."""
    policy = build("py_agent=fast", spec(), seed=4)
    names = {name: name for name, _ in policy.named_parameters()}
    section = compare_initialisation(build("agent=fast", spec(), seed=3), policy, names, TITLES, 0.0)
    kinds = {finding.subject: finding.causes[0].kind for finding in section.findings}
    assert kinds["cnn1.weight"] == kinds["core.weight_hh_l1"] == kinds["action.weight"] == "stream"
    assert "cnn1.bias" not in kinds


def test_descriptions() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(initializer, *shape: int) -> torch.Tensor:
        values = torch.empty(shape)
        initializer.fill(values, generator)
        return values

    assert describe(torch.zeros(3)) == "all 0"
    assert describe(drawn(Orthogonal(math.sqrt(2)), 64, 32)) == "orthogonal, gain 1.41"
    assert describe(drawn(UniformRange(0.044), 512, 16)) == "uniform +-0.044"
    assert describe(drawn(Normal(0.5), 100, 100)).startswith("mean ")
    assert gain_of(drawn(EmbeddingMaxAbs(0.1), 100, 16)) == pytest.approx(0.2, abs=0.15)
    assert gain_of(drawn(Normal(0.5), 100, 100)) is None
    assert gain_of(torch.zeros(5)) is None
