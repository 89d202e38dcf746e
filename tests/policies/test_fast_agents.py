"""`agent=fast` and `py_agent=fast` are one network."""

from __future__ import annotations

import copy

import pytest
import torch

from metta_train.policies import activated_linear, actor_head, cpu_lstm
from metta_train.policies.build import build_policy_from
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.policies.weights import WeightAnchors, clip_weights, l2_init_loss, l2_reg_loss, weight_metrics
from metta_train.specs.action_table import ActionTable

from .agents import FAST_AGENTS, agent_values, build, random_observations, random_resets, token_spec, vector_spec

CORE = [f"core.{kind}_l{layer}" for layer in (0, 1) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
CANONICAL = [
    *(f"{name}.{kind}" for name in ("cnn1", "cnn2", "fc1", "encoded_obs") for kind in ("weight", "bias")),
    *CORE,
    *(f"{name}.{kind}" for name in ("critic_1", "value", "actor_1") for kind in ("weight", "bias")),
    "action_embeds.weight",
    "action.weight",
    "action.bias",
]
COUNTS = {
    "cnn1": 40_064,
    "cnn2": 36_928,
    "fc1": 8_320,
    "encoded_obs": 16_512,
    "core": 264_192,
    "critic_1": 132_096,
    "value": 1_025,
    "actor_1": 66_048,
    "action_embeds": 1_600,
    "action": 8_193,
}


def both(spec=None, seed=3):
    return tuple(build(name, spec, seed) for name in FAST_AGENTS)


def assert_equal_tensors(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_canonical_names_in_order_and_nothing_else_in_the_state_dict(name):
    policy = build(name)
    assert [parameter for parameter, _ in policy.named_parameters()] == CANONICAL
    assert list(policy.state_dict()) == CANONICAL
    assert policy.state_dict()["action_embeds.weight"].shape == (100, 16)
    assert policy.state_dict()["action.weight"].shape == (1, 512, 16)
    assert policy.state_dict()["action.bias"].shape == (1,)


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_parameter_counts_per_layer(name):
    policy = build(name)
    counts = {layer: 0 for layer in COUNTS}
    for parameter, values in policy.named_parameters():
        counts[parameter.split(".")[0]] += values.numel()
    assert counts == COUNTS
    assert sum(counts.values()) == 574_978


@pytest.mark.parametrize("name", FAST_AGENTS)
@pytest.mark.parametrize(("side", "count"), [(11, 574_978), (13, 574_978), (15, 599_554)])
def test_windows_floor(name, side, count):
    spec = token_spec(height=side, width=side)
    policy = build(name, spec)
    assert sum(p.numel() for p in policy.parameters()) == count
    output = policy(random_observations(spec, 2, 1), policy.initial_state(2), random_resets(2, 1))
    assert output.logits.shape == (2, 1, 19)


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_a_window_that_is_too_small_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"(cnn2|py_agent=fast).*kernel of 3 does not fit a side of 2 cells"):
        build(name, token_spec(height=15, width=9))


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_the_number_of_actions_does_not_change_the_weights(name):
    few, many = (
        build(name, token_spec(actions=ActionTable.discrete([f"a{k}" for k in range(count)]))) for count in (2, 60)
    )
    assert_equal_tensors(few.state_dict(), many.state_dict())


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_same_seed_same_weights_to_the_last_bit(seed):
    graph, by_hand = both(seed=seed)
    assert_equal_tensors(graph.state_dict(), by_hand.state_dict())


def test_another_seed_gives_other_weights_and_torch_keeps_its_random_state():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one = build("py_agent=fast", seed=1)
    assert torch.equal(torch.rand(3), expected)
    other = build("py_agent=fast", seed=2)
    same = [n for n in one.state_dict() if torch.equal(one.state_dict()[n], other.state_dict()[n])]
    assert all("bias" in name for name in same)


@pytest.mark.parametrize("bias_init", ["forget", "ones", "zeros"])
def test_bias_init_is_an_option_of_both(bias_init):
    graph = agent_values("agent=fast")
    graph["components"]["core"]["bias_init"] = bias_init
    by_hand = agent_values("py_agent=fast")
    by_hand["core"]["bias_init"] = bias_init
    policies = [
        build_policy_from(config, token_spec(), 0)
        for config in (AgentConfig.model_validate(graph), PyAgentConfig.model_validate(by_hand))
    ]
    assert_equal_tensors(policies[0].state_dict(), policies[1].state_dict())
    state = policies[0].state_dict()
    expected = {"forget": [0, 1, 0, 0], "ones": [1, 1, 1, 1], "zeros": [0, 0, 0, 0]}[bias_init]
    for layer in (0, 1):
        assert state[f"core.bias_ih_l{layer}"].view(4, 128).mean(1).tolist() == expected
        assert state[f"core.bias_hh_l{layer}"].mean().item() == (1.0 if bias_init == "ones" else 0.0)


def test_initial_values_are_those_of_the_design():
    state = build("py_agent=fast").state_dict()
    for layer, gain in (("fc1", 1.0), ("critic_1", 2**0.5), ("actor_1", 1.0), ("value", 1.0)):
        values = torch.linalg.svdvals(state[f"{layer}.weight"])
        torch.testing.assert_close(values, torch.full_like(values, gain))
        assert state[f"{layer}.bias"].abs().max() == 0
    assert state["action_embeds.weight"].abs().max().item() == pytest.approx(0.1)
    assert 0.04 < state["action.weight"].abs().max() <= 512**-0.5


@pytest.mark.parametrize(
    "spec",
    [
        token_spec(),
        token_spec(height=13, width=13, num_features=1),
        token_spec(height=15, width=11, num_features=60, categories={3: 5, 40: 2}),
        token_spec(actions=ActionTable.discrete(["only"])),
    ],
    ids=["25 features", "one feature", "categories", "one action"],
)
@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (5, 1), (6, 8)])
def test_outputs_and_gradients_are_equal_to_the_last_bit(spec, rows, steps):
    observations, resets = random_observations(spec, rows, steps), random_resets(rows, steps)
    actions = torch.randint(len(spec.actions), (rows, steps), generator=torch.Generator().manual_seed(5))
    results = []
    for policy in both(spec):
        state = policy.initial_state(rows)
        output = policy(observations, state, resets)
        evaluation = policy.evaluate_actions(observations, actions, state, resets)
        loss = evaluation.log_probs.sum() + evaluation.entropy.mean() + evaluation.values.square().sum()
        loss.backward()
        results.append(
            {
                "logits": output.logits,
                "values": output.values,
                "hidden": output.state.tensors[0],
                "cell": output.state.tensors[1],
                "entropy": evaluation.entropy,
                **{name: parameter.grad for name, parameter in policy.named_parameters()},
            }
        )
    assert_equal_tensors(*results)
    unused = {0} | set(range(len(spec.actions) + 1, 100))
    assert all(results[0]["action_embeds.weight"][row].abs().max() == 0 for row in unused)


def test_equal_sampled_actions_from_equal_generators():
    spec = token_spec()
    observations = random_observations(spec, 50, 1)[:, 0]
    steps = [
        policy.act(observations, policy.initial_state(50), random_resets(50, 1)[:, 0], torch.Generator().manual_seed(4))
        for policy in both(spec)
    ]
    assert torch.equal(steps[0].actions, steps[1].actions)
    assert torch.equal(steps[0].log_probs, steps[1].log_probs)


def test_checkpoints_interchange():
    graph, by_hand = build("agent=fast", seed=1), build("py_agent=fast", seed=2)
    by_hand.load_state_dict(graph.state_dict())
    assert_equal_tensors(graph.state_dict(), by_hand.state_dict())


def test_weight_operations_are_equal():
    policies = both()
    results = []
    for policy in policies:
        anchors = WeightAnchors.of(policy)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.5)
        clip_weights(policy, anchors, 1.2)
        loss = l2_init_loss(policy, anchors) + l2_reg_loss(policy)
        loss.backward()
        results.append(
            {
                "loss": loss,
                **policy.state_dict(),
                **{f"grad {n}": p.grad for n, p in policy.named_parameters() if p.grad is not None},
            }
        )
    assert_equal_tensors(*results)
    assert weight_metrics(policies[0]) == weight_metrics(policies[1])
    assert [layer.name for layer in policies[0].weight_layers()] == [
        "cnn1", "cnn2", "fc1", "encoded_obs", "critic_1", "value", "actor_1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_a_deep_copy_is_a_policy_of_its_own(name):
    policy = build(name)
    twin = copy.deepcopy(policy)
    observations, resets = random_observations(policy.spec, 2, 3), random_resets(2, 3)
    with torch.no_grad():
        before = policy(observations, policy.initial_state(2), resets).logits
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(policy(observations, policy.initial_state(2), resets).logits, before)
        assert twin(observations, twin.initial_state(2), resets).logits.abs().max() == 0


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_a_vector_environment_is_refused(name):
    with pytest.raises(
        ValueError, match=r"(py_agent=fast|component 'box':) reads token observations.*'cart'.*BoxObs.*agent=mlp"
    ):
        build(name, vector_spec())


@pytest.mark.parametrize("name", FAST_AGENTS)
@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-4), (True, 0.05)])
def test_where_torch_brings_no_products_for_kernels_its_operations_compute_the_same(
    name: str, bf16: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch
):
    """Resets inside, values and all gradients; as on a CPU without AMX, or with a torch without BLAS."""
    policy, rows, steps = build(name), 40, 6
    observations = random_observations(policy.spec, rows, steps)
    resets = random_resets(rows, steps)
    actions = torch.randint(len(policy.spec.actions), (rows, steps), generator=torch.Generator().manual_seed(0))

    def computed():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
            found = policy.evaluate_actions(observations, actions, policy.initial_state(rows), resets)
            with torch.no_grad():
                state = policy.act(observations[:, 0], policy.initial_state(rows), resets[:, 0]).state
        answers = [found.log_probs, found.entropy, found.values]
        gradients = torch.autograd.grad(
            torch.stack([a.square().sum() for a in answers]).sum(), list(policy.parameters())
        )
        return [tensor.detach() for tensor in (*answers, *state.tensors, *gradients)]

    with_products = computed()
    asked = []
    for module in (activated_linear, actor_head, cpu_lstm):
        monkeypatch.setattr(module, "multiplies", lambda dtype: bool(asked.append(dtype)))
    without = computed()
    assert asked
    for one, other in zip(with_products, without, strict=True):
        assert (
            one - other
        ).norm() <= tolerance * other.norm() + 1e-4  # the gradient of action.bias is 0 but for rounding
