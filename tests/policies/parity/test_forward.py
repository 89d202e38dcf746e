"""No false alarms, and what a comparison contains."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metta_train.policies.parity.findings import UnusablePolicyError
from metta_train.policies.parity.forward import Pair, compare_forward
from metta_train.policies.parity.scenarios import give_lively_weights, scenarios
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import EnvironmentSpec, Feature, TokenObservation
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState
from tests.fakes.fast_mutants import SplitFast
from tests.policies.agents import build, vector_spec
from tests.policies.parity.pairs import TITLES, compared, spec

SPECS = {
    "13x13": spec(13, 13),
    "15x11": spec(15, 11),
    "11x15": spec(11, 15),
    "one feature": spec(num_features=1),
    "60 features": spec(num_features=60),
    "255 features": spec(num_features=255),
    "one action": spec(actions=ActionTable.discrete(["noop"])),
    "discrete": spec(actions=ActionTable.discrete([f"a{k}" for k in range(19)])),
    "99 actions": spec(actions=ActionTable.discrete([f"a{k}" for k in range(99)])),
    "one token": spec(num_tokens=1),
    "three tokens": spec(num_tokens=3),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_two_fast_agents_are_equal_for_any_spec(name: str) -> None:
    section = compared(build("py_agent=fast", SPECS[name]))
    assert section.findings == ()
    assert section.largest_difference == 0.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_two_fast_agents_are_equal_for_any_seed(seed: int) -> None:
    assert compared(build("py_agent=fast", spec(), seed=seed), seed=seed).largest_difference == 0.0
    assert compared(build("agent=fast", spec(), seed=seed), seed=seed, reference="py_agent=fast").holds


@st.composite
def any_specs(draw) -> EnvironmentSpec:
    num_features = draw(st.integers(1, 20))
    ids = draw(st.lists(st.integers(0, 254), min_size=num_features, max_size=num_features, unique=True))
    features = tuple(
        Feature(
            id=ids[k],
            name=f"feature {k}",
            normalization=draw(st.sampled_from([0.5, 1.0, 3.0, 255.0])),
            categories=draw(st.sampled_from([0, 0, 1, 4])),
        )
        for k in range(num_features)
    )
    height, width = draw(st.integers(11, 15)), draw(st.integers(11, 15))
    arguments = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    table = ActionTable.from_pairs([f"type{k}" for k in range(len(arguments))], arguments)
    observation = TokenObservation(draw(st.integers(1, 80)), height, width, features)
    return EnvironmentSpec("any", draw(st.integers(1, 24)), observation, table)


@settings(max_examples=12)
@given(environment=any_specs(), seed=st.integers(0, 2**31))
def test_no_false_alarm_for_random_specs(environment: EnvironmentSpec, seed: int) -> None:
    section = compared(build("py_agent=fast", environment, seed=seed), seed=seed)
    assert section.findings == ()
    assert section.largest_difference == 0.0


def test_a_window_side_below_11_is_refused_by_both() -> None:
    """15x9 cannot be built: after the first convolution its side of 9 has 2 cells, and the second one needs 3."""
    for agent in ("agent=fast", "py_agent=fast"):
        with pytest.raises(ValueError, match="kernel of 3 does not fit a side of 2"):
            build(agent, spec(15, 9))


def test_box_observations_and_a_policy_without_memory() -> None:
    ours, theirs = build("agent=mlp", vector_spec()), build("agent=mlp", vector_spec())
    give_lively_weights(ours, 0)
    theirs.load_state_dict(ours.state_dict())
    given = scenarios(ours.spec, ours.state_shapes, 0)
    section = compare_forward(Pair(ours, theirs, {}, TITLES), given, 0.0)
    assert section.holds and section.largest_difference == 0.0
    theirs.get_parameter("critic_2.bias").data.zero_()
    finding = compare_forward(Pair(ours, theirs, {}, TITLES), given, 0.0).findings[0]
    assert (finding.subject, finding.causes[0].kind) == ("critic_2", "bias-missing")


@pytest.mark.parametrize("rows", range(1, 6))
def test_any_number_of_rows(rows: int) -> None:
    ours, theirs = build("agent=fast", spec()), build("py_agent=fast", spec())
    give_lively_weights(ours, 0)
    theirs.load_state_dict(ours.state_dict())
    given = [
        type(scenario)(
            scenario.name,
            scenario.observations[:rows],
            scenario.actions[:rows],
            scenario.state.rows(slice(0, rows)),
            scenario.resets[:rows],
        )
        for scenario in scenarios(ours.spec, ours.state_shapes, 4)
    ]
    assert compare_forward(Pair(ours, theirs, {}, TITLES), given, 0.0).largest_difference == 0.0


def test_scenarios_use_every_rule_of_tokens() -> None:
    given = {scenario.name: scenario for scenario in scenarios(spec(), ((2, 8), (2, 8)), 0)}
    tokens = given["one step"].observations.flatten(0, 1)
    used = tokens[..., 0] != 255
    padding_then_token = (~used[:, :-1] & used[:, 1:]).any(dim=1)
    assert bool(padding_then_token.all())
    assert bool((tokens[..., 0] == 254).any(dim=1).all())
    assert bool((((tokens[..., 0] >> 4) > 10) | ((tokens[..., 0] & 15) > 10))[used & (tokens[..., 0] < 254)].any())
    edge = given["edge observations"].observations.flatten(0, 1)
    assert bool((edge[0] == 255).all()), "nothing to see"
    assert bool((edge[1, :, 0] != 255).all()), "all 200 tokens used"
    assert bool((edge[2, :, 0] == 254).all()), "only global tokens"
    resets = given["sequence with resets"].resets
    assert bool(resets[:, 1:].any()) and not bool(resets[0].any())
    assert all(bool(tensor.any()) for tensor in given["sequence"].state.tensors)


def test_lively_weights_have_no_zero_and_depend_on_the_seed_alone() -> None:
    first, second, other = (build("py_agent=fast", spec()) for _ in range(3))
    for policy, seed in ((first, 1), (second, 1), (other, 2)):
        give_lively_weights(policy, seed)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert bool((a != 0).all()), name
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


class WritesObservations(SplitFast):
    """B20 of the original: 255 is replaced in place."""

    def shape_observations(self, tokens: Tensor) -> Tensor:
        box = self.box(tokens)
        tokens[tokens == 255] = 0
        return box


class WrongShape(SplitFast):
    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        output = super().forward(observations, state, resets)
        return PolicyOutput(output.logits, output.values.unsqueeze(-1), output.state)


class Raises(SplitFast):
    def after_fc1(self, x: Tensor) -> Tensor:
        raise KeyError("encoded\nobs")


def test_a_policy_that_writes_into_its_observations_is_told_so() -> None:
    section = compared(WritesObservations(spec()), 1e-6)
    assert [finding.message for finding in section.findings] == [
        "candidate writes into the observations that it is given"
    ]


def test_a_policy_that_breaks_the_contract_is_refused_in_one_line() -> None:
    with pytest.raises(UnusablePolicyError, match=r"candidate: values have shape \[24, 1, 1\], need \[24, 1\]"):
        compared(WrongShape(spec()))
    with pytest.raises(UnusablePolicyError, match=r"candidate: forward \(one step\) raises KeyError") as error:
        compared(Raises(spec()))
    assert "\n" not in str(error.value)


def test_policies_are_left_as_they_are() -> None:
    policy = build("py_agent=fast", spec())
    compared(policy)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in policy.modules()]
    assert not any(hooks)
    assert all(parameter.grad is None for parameter in policy.parameters())
    copy.deepcopy(policy)
