from __future__ import annotations

import pytest
import torch
from torch import nn

from metta_train.policies.parity.findings import UnusablePolicyError
from metta_train.policies.parity.structure import (
    check_transferable,
    compare_structure,
    copy_weights,
    pair_parameters,
)
from tests.fakes.fast_mutants import SplitFast
from tests.fakes.ported_fast import NAMES, PortedFast
from tests.policies.agents import build
from tests.policies.parity.pairs import TITLES, spec


class NoBias(SplitFast):
    def __init__(self, environment) -> None:
        super().__init__(environment)
        self.cnn2 = nn.Conv2d(64, 64, 3, bias=False)
        self._initial_values.pop("cnn2.bias")


class Wide(SplitFast):
    def __init__(self, environment) -> None:
        super().__init__(environment)
        self.critic_1 = nn.Linear(128, 512)
        self.value = nn.Linear(512, 1)


def test_equal_names_need_no_map() -> None:
    ours, theirs = build("agent=fast", spec()), build("py_agent=fast", spec())
    pairing = pair_parameters(ours, theirs, {}, TITLES)
    assert all(name == other for name, other in pairing.names.items())
    section = compare_structure(ours, theirs, pairing, TITLES)
    assert section.holds and len(section.measurements) == 25


def test_parameters_of_25_features_are_counted() -> None:
    environment = spec()
    policy = build("agent=fast", environment)
    pairing = pair_parameters(policy, build("py_agent=fast", environment), {}, TITLES)
    summary = compare_structure(policy, build("py_agent=fast", environment), pairing, TITLES).summary
    # feature 3 takes 5 channels: 4 more than 25, each 64 * 5 * 5
    assert f"{574_978 + 4 * 64 * 25:,}" in summary


def test_other_names_are_guessed_and_reported() -> None:
    ours, theirs = build("agent=fast", spec()), PortedFast(spec())
    pairing = pair_parameters(ours, theirs, {}, TITLES)
    assert pairing.names["encoder.0.weight"] == "cnn1.weight"
    assert pairing.names["critic.2.weight"] == "value.weight"
    assert pairing.names["critic.2.bias"] == "value.bias"
    assert pairing.names["offset"] == "action.bias"
    assert pairing.names["embeddings.weight"] == "action_embeds.weight"
    assert pairing.names["lstm.weight_hh_l1"] == "core.weight_hh_l1"
    section = compare_structure(ours, theirs, pairing, TITLES)
    assert not section.holds
    finding = next(f for f in section.findings if f.subject == "cnn1.weight")
    assert finding.counterpart == "encoder.0.weight"
    assert pairing.missing == pairing.extra == ()


def test_a_name_map_of_layers_or_parameters_settles_it() -> None:
    ours, theirs = build("agent=fast", spec()), PortedFast(spec())
    pairing = pair_parameters(ours, theirs, NAMES, TITLES)
    assert compare_structure(ours, theirs, pairing, TITLES).holds
    assert pairing.names["lstm.bias_ih_l0"] == "core.bias_ih_l0"
    whole_names = {name: other for name, other in NAMES.items() if name != "encoder.0"}
    whole_names |= {"encoder.0.weight": "cnn1.weight", "encoder.0.bias": "cnn1.bias"}
    assert pair_parameters(ours, theirs, whole_names, TITLES).names == pairing.names
    copy_weights(ours, theirs, pairing.names)
    assert torch.equal(theirs.get_parameter("encoder.0.weight"), ours.get_parameter("cnn1.weight"))
    assert torch.equal(theirs.get_parameter("mix"), ours.get_parameter("action.weight"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"encoder.9": "cnn1"}, "candidate has no parameter or layer 'encoder.9'"),
        ({"encoder.0": "cnn9"}, "reference has no parameter 'cnn9.weight' .*did you mean 'cnn[12].weight'"),
        ({"encoder.0": "cnn1", "encoder.2": "cnn1"}, "'cnn1.weight' is given to two parameters"),
    ],
)
def test_a_wrong_map_is_refused(names: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_parameters(build("agent=fast", spec()), PortedFast(spec()), names, TITLES)


def test_a_missing_parameter_is_a_difference_and_not_the_end() -> None:
    ours, theirs = build("agent=fast", spec()), NoBias(spec())
    pairing = pair_parameters(ours, theirs, {}, TITLES)
    findings = compare_structure(ours, theirs, pairing, TITLES).findings
    assert [f.message for f in findings] == ["candidate has no cnn2.bias [64]"]
    check_transferable(ours, theirs, pairing, TITLES)


def test_shapes_that_cannot_match_end_the_comparison() -> None:
    ours, theirs = build("agent=fast", spec()), Wide(spec())
    pairing = pair_parameters(ours, theirs, {}, TITLES)
    assert any(
        "critic_1.weight is [1024, 128]" in f.message for f in compare_structure(ours, theirs, pairing, TITLES).findings
    )
    with pytest.raises(UnusablePolicyError, match=r"the shapes cannot match: critic_1.weight is \[1024, 128\]"):
        check_transferable(ours, theirs, pairing, TITLES)
