"""Graphs that cannot be built say which component is wrong and why."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from metta_train.policies.build import build_policy_from
from metta_train.policies.component_graph.graph import ComponentGraph
from metta_train.policies.config import AgentConfig
from metta_train.policies.policy import LayerSettings
from metta_train.specs.action_table import ActionTable

from ..agents import agent_values, random_observations, random_resets, token_spec, vector_spec

ABSENT = object()
NO_ENCODER = dict.fromkeys(["box", "cnn1", "cnn2", "obs_flattener"], ABSENT)


def fast_with(changes: Mapping[str, Any]) -> AgentConfig:
    """conf/agent/fast.yaml with changed keys, e.g. `{"fc1.nn_params.bias": False}`, or ABSENT to remove one."""
    values = copy.deepcopy(agent_values("agent=fast"))
    for path, value in changes.items():
        *parents, key = path.split(".")
        inner = values["components"]
        for parent in parents:
            inner = inner[parent]
        if value is ABSENT:
            del inner[key]
        else:
            inner[key] = value
    return AgentConfig.model_validate(values)


def build(changes: Mapping[str, Any]) -> ComponentGraph:
    policy = build_policy_from(fast_with(changes), token_spec(), seed=0)
    assert isinstance(policy, ComponentGraph)
    return policy


IMPOSSIBLE = [
    ({"cnn1.sources": ["encoded_obs"]}, r"'encoded_obs': its sources form a cycle: encoded_obs <- fc1 .* <- e"),
    ({"fc1.sources": ["fc1"]}, r"component 'fc1': its sources form a cycle: fc1 <- fc1"),
    ({"fc1.sources": ["obs_flatener"]}, r"'fc1': source 'obs_flatener' does not exist; did you mean 'obs_flat"),
    ({"extra": {"class": "Flatten", "sources": ["cnn1"]}}, r"component 'extra': nothing leads from it to value"),
    ({"fc1.sources": ["cnn2"], "obs_flattener": ABSENT}, r"takes inputs of 1 dim.*, got shape \[64, 1, 1\]"),
    ({"cnn2.nn_params.kernel_size": 4}, r"component 'cnn2': a kernel of 4 does not fit a side of 3 cells"),
    ({"fc1.nonlinarity": None}, r"'fc1': class Linear: unknown key 'nonlinarity'; did you mean 'nonline"),
    ({"fc1.nn_params.out_feature": 3}, r"'fc1': .*unknown key 'nn_params.out_feature'; did you mean 'out_f"),
    ({"fc1.nn_params": ABSENT}, r"component 'fc1': class Linear: key 'nn_params' is missing"),
    ({"fc1.nn_params.out_features": ABSENT}, r"component 'fc1': .*key 'nn_params.out_features' is missing"),
    ({"fc1.nn_params.out_features": "128"}, r"component 'fc1': .*nn_params.out_features: got '128'.*valid integer"),
    ({"fc1.nn_params.out_features": 0}, r"component 'fc1': .*nn_params.out_features: got 0: .*greater than 0"),
    ({"core.nn_params.dropout": 0.5}, r"component 'core': class LSTM: unknown key 'nn_params.dropout'"),
    ({"core.clip_scale": 1.0}, r"component 'core': class LSTM: unknown key 'clip_scale'"),
    ({"core.bias_init": "forgot"}, r"component 'core': .*bias_init: got 'forgot'.*'forget', 'ones' or 'zeros'"),
    ({"fc1.class": "Liner"}, r"component 'fc1': unknown class 'Liner'; did you mean 'Linear'\?"),
    ({"fc1.nonlinearity": "nn.Relu"}, r"component 'fc1': unknown nonlinearity 'nn.Relu'; did you mean 'nn.ReLU'\?"),
    ({"fc1.initialization": "ortogonal"}, r"component 'fc1': .*initialization: got 'ortogonal'"),
    ({"value.nn_params.out_features": 2}, r"component 'value': its output must have shape \[1\], got \[2\]"),
    ({"action": {"class": "Identity", "sources": ["actor_1"]}, "action_embeds": ABSENT}, r"'action': its logits m"),
    ({"value": ABSENT}, r"agent: needs a component named 'value'"),
    ({"observations": {"class": "Identity", "sources": ["fc1"]}}, r"'observations': the name is taken by an input"),
    ({"fc1.sources": ["obs_flattener", "core"]}, r"component 'core': .*cycle: core <- encoded_obs <- fc1 <- core"),
    ({"fc1.sources": ["obs_flattener", "obs_flattener"]}, r"component 'fc1': takes exactly 1 source, got 2"),
    ({"fc1.sources": [], **NO_ENCODER}, r"component 'fc1': takes exactly 1 source, got 0"),
    ({"fc1.sources": ["active_actions"], **NO_ENCODER}, r"takes inputs per row, got \[19\] \(shared by all"),
    ({"box.sources": ["active_actions"]}, r"component 'box': takes inputs per row"),
    ({"action.sources": ["action_embeds", "actor_1"]}, r"component 'action': its first source must be a vector"),
    ({"action.sources": ["actor_1"]}, r"component 'action_embeds': nothing leads from it"),
    ({"action.sources": ["actor_1", "action_embeds", "core"]}, r"component 'action': takes 2 sources, .* got 3"),
    ({"fc1.sources": [{"name": "obs_flattener", "slice": [0, 3]}]}, r"'fc1': source .*slice and dim belong toge"),
    ({"fc1.sources": [{"name": "obs_flattener", "slice": [0, 3], "dim": 2}]}, r"'fc1': .*dim 2 does not exist"),
    ({"fc1.sources": [{"name": "obs_flattener", "slice": [60, 65], "dim": 1}]}, r"'fc1': .*\[60, 65\] does not"),
]


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE)
def test_a_graph_that_cannot_be_built(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        build(changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["forward", "act", "spec", "_steps", "training", "weight_layers", "a.b", "x-y"])
def test_names_that_the_policy_needs_are_refused(name):
    values = agent_values("agent=fast")
    values["components"][name] = values["components"].pop("fc1")
    values["components"]["encoded_obs"]["sources"] = [name]
    with pytest.raises(ValueError, match=rf"component {name!r}: the name belongs to the policy|[Ss]tring should match"):
        build_policy_from(AgentConfig.model_validate(values), token_spec(), seed=0)


def test_the_order_in_yaml_does_not_matter():
    values = agent_values("agent=fast")
    turned = {**values, "components": dict(reversed(values["components"].items()))}
    straight, reversed_ = (
        build_policy_from(AgentConfig.model_validate(v), token_spec(), seed=0) for v in (values, turned)
    )
    assert list(straight.state_dict()) == list(reversed_.state_dict())


def test_steps_run_in_order_and_once():
    policy = build({})
    calls = []
    for name, module in policy.named_children():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    policy(random_observations(policy.spec, 2, 3), policy.initial_state(2), torch.zeros(2, 3, dtype=torch.bool))
    assert calls == [
        "box", "cnn1", "cnn2", "obs_flattener", "fc1", "encoded_obs", "core", "critic_1", "value", "actor_1",
        "action_embeds", "action",
    ]  # fmt: skip


def test_layer_settings_reach_the_weight_operations():
    policy = build({"fc1.clip_scale": 0.5, "fc1.l2_init_scale": 0, "cnn1.analyze_weights": False})
    layers = {
        layer.name: LayerSettings(layer.clip_scale, layer.l2_init_scale, layer.analyze)
        for layer in policy.weight_layers()
    }
    assert layers["fc1"] == LayerSettings(0.5, 0.0, True)
    assert layers["cnn1"] == LayerSettings(analyze=False)
    assert layers["actor_1"] == LayerSettings()


def test_the_big_actor_has_the_originals_parameter_count():
    policy = build({"action.class": "MettaActorBig"})
    assert sum(p.numel() for p in policy.parameters()) == 846_370
    output = policy(random_observations(policy.spec, 2, 3), policy.initial_state(2), random_resets(2, 3))
    assert output.logits.shape == (2, 3, 19)


def test_a_separate_normalizer_gives_the_same_bits():
    together = build({})
    apart = build(
        {
            "box.nn_params": {"normalize": False},
            "obs_normalizer": {"class": "ObservationNormalizer", "sources": ["box"]},
            "cnn1.sources": ["obs_normalizer"],
        }
    )
    together.get_submodule("box").register_forward_hook(lambda *_: None)  # both draw the box
    observations, resets = random_observations(together.spec, 3, 4), random_resets(3, 4)
    outputs = [p(observations, p.initial_state(3), resets).logits for p in (together, apart)]
    assert torch.equal(*outputs)


def test_slices_and_towers():
    """Two convolution towers over channel slices, concatenated, as the original's reference design shows."""
    tower = {"class": "Conv2d", "nn_params": {"out_channels": 32, "kernel_size": 5, "stride": 3}}
    policy = build(
        {
            "cnn1": {**tower, "sources": [{"name": "box", "slice": [0, 10], "dim": 1}]},
            "tower_2": {**tower, "sources": [{"name": "box", "slice": [10, 25], "dim": 1}]},
            "towers": {"class": "Concat", "sources": ["cnn1", "tower_2"]},
            "cnn2.sources": ["towers"],
        }
    )
    assert policy.state_dict()["cnn1.weight"].shape == (32, 10, 5, 5)
    assert policy.state_dict()["tower_2.weight"].shape == (32, 15, 5, 5)
    observations = random_observations(policy.spec, 2, 2)
    before = policy(observations, policy.initial_state(2), random_resets(2, 2)).logits
    with torch.no_grad():
        box = policy.get_submodule("box")(observations.flatten(0, 1))
        expected = torch.cat(
            [policy.get_submodule("cnn1")(box[:, :10]), policy.get_submodule("tower_2")(box[:, 10:])], 1
        )
    seen = []
    # Who listens to a layer gets torch's own convolution, which sums in another order on some processors.
    policy.get_submodule("cnn2").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = policy(observations, policy.initial_state(2), random_resets(2, 2)).logits
    torch.testing.assert_close(logits, before, rtol=0, atol=1e-6)
    torch.testing.assert_close(seen[0], expected.relu())


GATE = {"class": "Linear", "nn_params": {"out_features": 1}, "nonlinearity": None}
JOINT = {"joint": {"class": "Concat", "sources": ["core", "gate"]}, "actor_1.sources": ["joint"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": {**GATE, "sources": ["value"]}, "value.nonlinearity": "nn.Tanh", **JOINT},  # the root has a reader
        {"gate": {**GATE, "sources": ["critic_1"]}, **JOINT},  # the layer before the value head has two
        {"gate": {**GATE, "sources": [{"name": "critic_1", "slice": [3, 9], "dim": 1}]}, **JOINT},
        {"gate": {**GATE, "sources": ["gate_1"]}, "gate_1": {**GATE, "sources": ["core"], "nonlinearity": "nn.ReLU"}}
        | JOINT,  # another head than the value
    ],
)
def test_value_heads_and_the_layers_before_them_compute_what_their_modules_say(changes):
    policy = build(changes)
    observations, resets = random_observations(policy.spec, 2, 2), random_resets(2, 2)
    seen = {}
    with torch.no_grad():
        output = policy(observations, policy.initial_state(2), resets)
        for name in ("critic_1", "value"):

            def note(_, inputs, outputs, name=name):
                seen[name] = inputs[0], outputs

            policy.get_submodule(name).register_forward_hook(note)
        again = policy(observations, policy.initial_state(2), resets)
        torch.testing.assert_close(output.logits, again.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(output.values, again.values, rtol=0, atol=1e-5)
        assert output.values.shape == (2, 2)
        inputs, outputs = seen["value"]
        torch.testing.assert_close(inputs, seen["critic_1"][1].tanh())
        value = outputs.tanh() if "value.nonlinearity" in changes else outputs
        torch.testing.assert_close(again.values.flatten(), value.flatten(), rtol=0, atol=1e-5)


def test_two_memories_keep_apart():
    lstm = {"class": "LSTM", "nn_params": {"hidden_size": 8, "num_layers": 1}}
    policy = build({"critic_core": {**lstm, "sources": ["encoded_obs"]}, "critic_1.sources": ["critic_core"]})
    assert sorted(policy.state_shapes) == [(1, 8), (1, 8), (2, 128), (2, 128)]
    observations, resets = random_observations(policy.spec, 3, 5), random_resets(3, 5)
    with torch.no_grad():
        whole = policy(observations, policy.initial_state(3), resets)
        state = policy.initial_state(3)
        for step in range(5):
            single = policy(observations[:, step : step + 1], state, resets[:, step : step + 1])
            state = single.state
    torch.testing.assert_close(single.logits[:, 0], whole.logits[:, 4], rtol=0, atol=1e-6)
    torch.testing.assert_close(single.values[:, 0], whole.values[:, 4], rtol=0, atol=2e-6)


def test_a_linear_actor_knows_its_actions_in_any_order_but_no_others():
    config = AgentConfig.model_validate(agent_values("agent=mlp"))
    policy = build_policy_from(config, vector_spec(), seed=0)
    observations, resets = random_observations(policy.spec, 3, 1), random_resets(3, 1)
    with torch.no_grad():
        before = policy(observations, policy.initial_state(3), resets).logits
        policy.activate_actions(ActionTable.discrete(["right", "left"]))
        assert torch.equal(policy(observations, policy.initial_state(3), resets).logits, before.flip(-1))
    with pytest.raises(ValueError, match="rows for 2 action names and would need 3"):
        policy.activate_actions(ActionTable.discrete(["left", "jump"]))


def test_a_graph_without_components_is_refused():
    with pytest.raises(ValueError, match="needs a component named 'value'"):
        build_policy_from(AgentConfig(clip_range=0, analyze_weights_interval=1, components={}), token_spec(), seed=0)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"clip_range": -1.0}, "clip_range"),
        ({"analyze_weights_interval": 1.5}, "analyze_weights_interval"),
        ({"cliprange": 1.0}, "cliprange"),
        ({"components": {"value": {"sources": []}}}, "components.value.class"),
    ],
)
def test_the_schema_refuses(values, key):
    with pytest.raises(ValidationError) as error:
        AgentConfig.model_validate({**agent_values("agent=fast"), **values})
    assert key in [".".join(str(part) for part in e["loc"]) for e in error.value.errors()]
