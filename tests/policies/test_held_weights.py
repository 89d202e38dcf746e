"""Copies of weights are made once while the weights are held, and again when they may have moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metta_train.policies.actor_head import ActionEmbedding
from metta_train.policies.held_weights import held, weights_held
from metta_train.policies.watched import recorded
from tests.policies.agents import build, random_observations, random_resets, spec_for


def test_a_copy_is_made_once_for_each_weight_and_form() -> None:
    calls: list[str] = []

    def doubled(weight: Tensor) -> Tensor:
        calls.append("doubled")
        return weight * 2

    def added(one: Tensor, other: Tensor) -> Tensor:
        calls.append("added")
        return one + other

    first, second = torch.ones(2), torch.full((2,), 5.0)
    with weights_held():
        for _ in range(3):
            assert held(doubled, first)[0] == 2 and held(doubled, second)[0] == 10
            assert held(added, first, second)[0] == 6
    assert calls == ["doubled", "doubled", "added"]
    first.fill_(3.0)
    assert held(doubled, first)[0] == 6 and held(doubled, first)[0] == 6
    with weights_held():
        assert held(doubled, first)[0] == 6
    assert len(calls) == 6


def test_what_is_recorded_holds_nothing_as_the_weights_will_have_moved_when_it_is_played() -> None:
    weight = torch.ones(2)
    with weights_held():
        assert held(torch.neg, weight)[0] == -1
        weight.fill_(3.0)
        with recorded():
            assert held(torch.neg, weight)[0] == -3
        assert held(torch.neg, weight)[0] == -1


def test_a_tensor_that_takes_the_place_of_a_freed_one_is_another_weight() -> None:
    with weights_held():
        for number in range(50):
            assert held(torch.neg, torch.full((1,), float(number))).item() == -number


def test_embeddings_of_actions_are_looked_up_once_and_follow_weights_and_actions() -> None:
    table, rows, others = ActionEmbedding(5, 2), torch.tensor([3, 1]), torch.tensor([2])
    with torch.no_grad():
        with weights_held():
            first = table(rows)
            assert table(rows) is first
            assert torch.equal(table(others), table.weight[others])
        table.weight.mul_(2)
        with weights_held():
            assert torch.equal(table(rows), 2 * first)
    table(rows).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.sum(dim=1).tolist() == [0, 2, 0, 2, 0]


@pytest.mark.parametrize("name", ["agent=fast", "py_agent=fast", "agent=mlp"])
@pytest.mark.parametrize("bfloat16", [False, True], ids=["fp32", "bf16"])
def test_decisions_with_held_weights_are_those_without_to_the_bit(name: str, bfloat16: bool) -> None:
    policy, spec = build(name), spec_for(name)
    state = policy.initial_state(7)
    seen = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        for scale in (1.0, 1.5):  # the weights move between two rollouts
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.mul_(scale)
            with weights_held():
                for seed in range(2):
                    observations, resets = random_observations(spec, 7, 1, seed)[:, 0], random_resets(7, 1)[:, 0]
                    ours = policy.act(observations, state, resets, torch.Generator().manual_seed(seed))
                    seen.append((observations, resets, seed, scale, ours))
            for observations, resets, seed, at, ours in seen:
                if at != scale:
                    continue
                plain = policy.act(observations, state, resets, torch.Generator().manual_seed(seed))
                assert torch.equal(ours.log_probs, plain.log_probs) and torch.equal(ours.values, plain.values)
                for one, other in zip(ours.state.tensors, plain.state.tensors, strict=True):
                    assert torch.equal(one, other)
    assert not torch.equal(seen[0][-1].values, seen[2][-1].values)
