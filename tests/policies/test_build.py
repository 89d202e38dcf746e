from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import yaml

from metta_train.policies import build as policies_build
from metta_train.policies.build import build_policy_from
from metta_train.specs.action_table import ActionTable
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy

from .agents import CONF, FAST_AGENTS, agent_config, build, random_observations, random_resets, spec_for, token_spec

YAMLS = [
    f"{group}={path.stem}"
    for group in ("agent", "py_agent")
    for path in sorted((CONF / group).glob("*.yaml"))
    if path.stem != "none"
]


@pytest.mark.parametrize("name", YAMLS)
def test_every_yaml_builds_and_runs(name):
    policy = build(name)
    spec = spec_for(name)
    output = policy(random_observations(spec, 2, 3), policy.initial_state(2), random_resets(2, 3))
    assert output.logits.isfinite().all()
    assert {str(p.device) for p in policy.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", YAMLS)
def test_every_parameter_is_declared_and_torchs_seed_does_not_matter(name):
    torch.manual_seed(1)
    one = build(name).state_dict()
    torch.manual_seed(2)
    other = build(name).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_names_of_a_checkpoint_own_their_rows_first(name):
    spec = token_spec(actions=ActionTable.discrete(["use", "noop", "jump"]))
    policy = build_policy_from(agent_config(name), spec, 0, action_names=["noop", "move", "use"])
    assert policy.action_names == ("noop", "move", "use", "jump")
    assert policy.active_rows.tolist() == [3, 1, 4]


def test_the_linear_actor_has_a_row_for_every_name_of_a_checkpoint():
    policy = build_policy_from(agent_config("agent=mlp"), spec_for("agent=mlp"), 0, action_names=["right", "jump"])
    assert policy.state_dict()["action.weight"].shape == (3, 64)
    assert policy.active_rows.tolist() == [3, 1]


def test_parameters_that_are_not_float32_are_refused(monkeypatch):
    def build_half(spec, _):
        return SmallRecurrentPolicy(spec).to(torch.bfloat16)

    monkeypatch.setattr(policies_build, "build_py_agent", build_half)
    with pytest.raises(ValueError, match=r"encoder\.weight is bfloat16: .* must be float32; trainer"):
        build_policy_from(agent_config("py_agent=fast"), spec_for("agent=mlp"), 0)


def test_none_clears_the_hand_written_agent():
    assert yaml.safe_load((CONF / "py_agent" / "none.yaml").read_text()) == {"py_agent": None}


def test_configs_import_without_torch():
    code = "import sys, metta_train.policies.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
