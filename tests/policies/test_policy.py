"""What every policy promises, whatever its network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metta_train.policies.initialization import Constant
from metta_train.policies.policy import Policy
from metta_train.specs.action_table import ActionTable
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState

from .agents import ALL_AGENTS, FAST_AGENTS, build, random_observations, random_resets, token_spec, vector_spec

ROWS, STEPS = 6, 9


class FixedLogits(Policy):
    """Logits are a parameter; the layer `head` is there for the weight operations."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__(vector_spec(), state_shapes=())
        self.logits = nn.Parameter(torch.tensor(logits))
        self.head = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)
        self.init_with("head.weight", Constant(0.25))

    def forward(self, observations, state, resets):
        steps = resets.shape
        return PolicyOutput(self.logits.expand(*steps, -1), torch.zeros(steps), state)


@pytest.fixture(params=ALL_AGENTS)
def policy(request):
    return build(request.param)


def given(policy, rows=ROWS, steps=STEPS):
    return random_observations(policy.spec, rows, steps), policy.initial_state(rows), random_resets(rows, steps)


def test_shapes(policy):
    observations, state, resets = given(policy)
    output = policy(observations, state, resets)
    assert output.logits.shape == (ROWS, STEPS, len(policy.spec.actions))
    assert output.values.shape == (ROWS, STEPS)
    assert [t.shape[1:] for t in output.state.tensors] == list(policy.state_shapes)


def test_single_steps_equal_one_call(policy):
    observations, state, resets = given(policy)
    with torch.no_grad():
        whole = policy(observations, state, resets)
        for step in range(STEPS):
            one = slice(step, step + 1)
            single = policy(observations[:, one], state, resets[:, one])
            state = single.state
            torch.testing.assert_close(single.logits[:, 0], whole.logits[:, step], rtol=0, atol=1e-6)
            torch.testing.assert_close(single.values[:, 0], whole.values[:, step], rtol=0, atol=2e-6)
    for one, other in zip(state.tensors, whole.state.tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_reset_changes_its_own_row_from_its_step_on_and_nothing_else(policy):
    observations, state, _ = given(policy)
    state = RecurrentState(tuple(torch.rand_like(t) for t in state.tensors))
    none = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    one = none.clone()
    one[2, 4] = True
    with torch.no_grad():
        without, with_reset = policy(observations, state, none), policy(observations, state, one)
        fresh = policy(observations[2:3, 4:], policy.initial_state(1), none[2:3, 4:])
    changed = (without.logits - with_reset.logits).abs().amax(dim=-1) > 1e-6
    assert not changed[[0, 1, 3, 4, 5]].any()
    assert not changed[2, :4].any()
    assert changed[2, 4:].all() or not policy.state_shapes
    torch.testing.assert_close(with_reset.logits[2, 4:], fresh.logits[0], rtol=0, atol=1e-6)


def test_observations_and_state_are_not_written_to(policy):
    observations, state, resets = given(policy)
    state = RecurrentState(tuple(torch.rand_like(t) for t in state.tensors))
    before = [observations.clone(), resets.clone(), *(t.clone() for t in state.tensors)]
    policy(observations, state, resets)
    after = [observations, resets, *state.tensors]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_log_probs_of_act_are_those_that_training_recomputes(policy):
    observations, state, resets = given(policy)
    start, generator = state, torch.Generator().manual_seed(0)
    actions, log_probs, values = [], [], []
    with torch.inference_mode():
        for step in range(STEPS):
            chosen = policy.act(observations[:, step], state, resets[:, step], generator)
            state = chosen.state
            actions.append(chosen.actions)
            log_probs.append(chosen.log_probs)
            values.append(chosen.values)
    evaluation = policy.evaluate_actions(observations, torch.stack(actions, 1).clone(), start, resets)
    ratio = (evaluation.log_probs - torch.stack(log_probs, 1).clone()).exp()
    assert (ratio - 1).abs().max() < 1e-5
    torch.testing.assert_close(evaluation.values, torch.stack(values, 1).clone(), rtol=0, atol=1e-5)


def test_act_draws_from_the_policys_distribution():
    probabilities = torch.tensor([0.7, 0.3])
    policy = FixedLogits(probabilities.log().tolist())
    count = 20_000
    step = policy.act(
        torch.zeros(count, 4), policy.initial_state(count), torch.zeros(count, dtype=torch.bool),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    shares = step.actions.bincount(minlength=2) / count
    # Three standard deviations of a share: 3 * sqrt(0.7 * 0.3 / 20000) = 0.0097.
    assert (shares - probabilities).abs().max() < 0.0097
    torch.testing.assert_close(step.log_probs, probabilities.log()[step.actions])


def test_an_impossible_action_is_never_drawn_and_has_no_entropy():
    policy = FixedLogits([0.0, float("-inf")])
    resets = torch.zeros(5000, dtype=torch.bool)
    step = policy.act(torch.zeros(5000, 4), policy.initial_state(5000), resets, torch.Generator().manual_seed(0))
    assert step.actions.max() == 0
    evaluation = policy.evaluate_actions(
        torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), policy.initial_state(1), resets[:1, None]
    )
    assert evaluation.entropy.item() == 0.0


def test_entropy_and_log_probs_by_hand():
    # p = (3/4, 1/4): entropy = -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.5623 nats
    policy = FixedLogits([1.0986123, 0.0])
    resets = torch.zeros(1, 2, dtype=torch.bool)
    evaluation = policy.evaluate_actions(torch.zeros(1, 2, 4), torch.tensor([[0, 1]]), policy.initial_state(1), resets)
    torch.testing.assert_close(evaluation.entropy, torch.full((1, 2), 0.5623351), rtol=0, atol=1e-6)
    torch.testing.assert_close(evaluation.log_probs.exp(), torch.tensor([[0.75, 0.25]]))


def test_noise_comes_from_the_generator_alone(policy):
    observations, state, resets = given(policy, rows=64, steps=1)
    draws = []
    for seed in (7, 7, 8):
        step = policy.act(observations[:, 0], state, resets[:, 0], torch.Generator().manual_seed(seed))
        draws.append(step.actions)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_policy_runs_in_one_mode():
    policy = FixedLogits([0.0, 0.0])
    assert policy.train().drop.training is False
    assert policy.train(True).training is False
    recurrent = build("py_agent=fast")
    # cuDNN has gradients of an LSTM in training mode only
    assert [m for m in recurrent.modules() if m.training] == [recurrent.core]


def test_initialize_fills_declared_parameters_alone():
    policy = FixedLogits([1.0, 2.0])
    policy.initialize(seed=0)
    assert policy.head.weight.tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert policy.logits.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_logits_follow_action_names_into_another_table(name):
    names = ["noop", "move", "use"]
    policy = build(name, token_spec(actions=ActionTable.discrete(names)))
    observations, state, resets = given(policy, rows=2, steps=2)
    with torch.no_grad():
        before = policy(observations, state, resets).logits
        policy.activate_actions(ActionTable.discrete(["use", "jump", "noop"]))
        after = policy(observations, state, resets).logits
    assert torch.equal(after[..., [0, 2]], before[..., [2, 0]])
    assert policy.action_names == ("noop", "move", "use", "jump")
    assert policy.active_rows.tolist() == [3, 4, 1]


@pytest.mark.parametrize("name", FAST_AGENTS)
def test_too_many_names_change_nothing(name):
    policy = build(name, token_spec(actions=ActionTable.discrete(["noop", "move"])))
    many = [f"action_{k}" for k in range(98)]
    with pytest.raises(ValueError, match="would need 100"):
        policy.restore_action_names(many)
    with pytest.raises(ValueError, match="would need 100"):
        policy.activate_actions(ActionTable.discrete(many))
    assert policy.action_names == ("noop", "move")
    assert policy.active_rows.tolist() == [1, 2]


@pytest.mark.parametrize("name", FAST_AGENTS)
@pytest.mark.parametrize("share", [0.0, 0.2], ids=["no resets", "resets"])
def test_autocast_keeps_the_state_and_what_is_stored_in_float32(name, share):
    policy = build(name)
    observations, state, _ = given(policy)
    resets = random_resets(ROWS, STEPS, share)
    exact = policy(observations, state, resets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = policy(observations, state, resets)
        step = policy.act(observations[:, 0], state, resets[:, 0])
        evaluation = policy.evaluate_actions(observations, torch.zeros(ROWS, STEPS, dtype=torch.int64), state, resets)
    stored = [*output.state.tensors, *step.state.tensors, step.log_probs, step.values]
    assert {t.dtype for t in (*stored, evaluation.log_probs, evaluation.entropy, evaluation.values)} == {torch.float32}
    torch.testing.assert_close(output.values.float(), exact.values, rtol=0, atol=0.01)


def test_state_of_a_policy_without_memory_is_empty():
    policy = build("agent=mlp")
    assert policy.state_shapes == ()
    assert policy.initial_state(3).tensors == ()


def test_initial_state_is_zero_float32():
    state = build("agent=fast").initial_state(5)
    assert [(t.shape, t.dtype, t.abs().max().item()) for t in state.tensors] == [((5, 2, 128), torch.float32, 0.0)] * 2
