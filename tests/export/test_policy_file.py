"""One file of weights and what they belong to, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from metta_train.export.policy_file import (
    Origin,
    PolicyDocument,
    document_of,
    read_document,
    read_policy,
    render_policy,
)
from metta_train.policies.policy import Policy
from metta_train.reporting.storage import StorageError
from metta_train.specs.action_table import ActionTable
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.environment_spec import EnvironmentSpec
from tests.policies.agents import ALL_AGENTS, agent_values, build, spec_for, token_spec


def origin(agent: str) -> Origin:
    group, _, _ = agent.partition("=")
    return Origin(run="mine", agent=agent, epoch=3, agent_step=2304, config={group: agent_values(agent), "seed": 1})


def written(path: Path, agent: str, spec: EnvironmentSpec) -> tuple[Policy, PolicyDocument]:
    policy = build(agent, spec, seed=5)
    document = document_of(policy, origin(agent), {"feature_0": ("wall", "ore")})
    path.write_bytes(render_policy(policy.state_dict(), document))
    return policy, document


@pytest.mark.parametrize("agent", ALL_AGENTS)
def test_a_policy_comes_back_to_the_bit(agent: str, tmp_path: Path) -> None:
    policy, document = written(tmp_path / "p.safetensors", agent, spec_for(agent))
    assert read_document(tmp_path / "p.safetensors") == document
    assert document.spec == policy.spec
    again = read_policy(tmp_path / "p.safetensors")
    assert again.spec == policy.spec and again.action_names == policy.action_names
    assert all(torch.equal(tensor, policy.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_other_programs_read_it_without_this_one(tmp_path: Path) -> None:
    policy, _ = written(tmp_path / "p.safetensors", "agent=fast", token_spec())
    assert load_file(tmp_path / "p.safetensors").keys() == policy.state_dict().keys()
    with safe_open(tmp_path / "p.safetensors", framework="np") as file:
        told = json.loads(file.metadata()["metta_train"])
    assert told["environment"]["actions"] == list(policy.spec.actions.names)
    assert told["environment"]["observation"]["features"][0]["values"] == ["wall", "ore"]
    assert told["state_shapes"] == [[2, 128], [2, 128]]


def test_actions_in_another_order_keep_their_meaning(tmp_path: Path) -> None:
    spec = token_spec(actions=ActionTable.discrete(["rest", "north", "south"]))
    policy, _ = written(tmp_path / "p.safetensors", "agent=fast", spec)
    turned = read_policy(
        tmp_path / "p.safetensors", token_spec(actions=ActionTable.discrete(["south", "rest", "jump", "north"]))
    )
    observations = torch.full((2, 1, *spec.observation.shape), 3, dtype=torch.uint8)
    resets = torch.ones(2, 1, dtype=torch.bool)
    with torch.no_grad():
        before = policy(observations, policy.initial_state(2), resets).logits
        after = turned(observations, turned.initial_state(2), resets).logits
    torch.testing.assert_close(after[..., [1, 3, 0]], before)


def test_equal_policies_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / name, "agent=mlp", spec_for("agent=mlp"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_that_are_not_such_are_refused_in_one_line(tmp_path: Path) -> None:
    _, document = written(tmp_path / "good", "agent=mlp", spec_for("agent=mlp"))
    weights = load_file(tmp_path / "good")
    (tmp_path / "text").write_text("hello")
    save_file(weights, tmp_path / "bare")
    future = document.model_dump_json().replace('"format_version":1', '"format_version":2')
    save_file(weights, tmp_path / "future", {"metta_train": future})
    save_file({**weights, "more": torch.zeros(1)}, tmp_path / "more", {"metta_train": document.model_dump_json()})
    for name, said in (
        ("text", "not a safetensors file"),
        ("bare", "holds tensors alone"),
        ("future", "format_version"),
        ("more", "more"),
    ):
        with pytest.raises(ConfigError, match=said) as told:
            read_policy(tmp_path / name)
        assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match="tokens"):
        read_policy(tmp_path / "good", token_spec())
    with pytest.raises(StorageError):
        read_policy(tmp_path / "nothing")
