"""What a gradient step needed is freed when it ends, not when the garbage collector comes by."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from tests.policies.agents import ALL_AGENTS, build, random_observations, random_resets, spec_for

ROWS, STEPS = 6, 4


@pytest.mark.parametrize("name", ALL_AGENTS)
@pytest.mark.parametrize("bfloat16", [False, True], ids=["fp32", "bf16"])
def test_a_gradient_step_leaves_no_tensors_in_circles(name: str, bfloat16: bool) -> None:
    policy, spec = build(name), spec_for(name)
    observations = random_observations(spec, ROWS, STEPS)
    actions = torch.zeros(ROWS, STEPS, dtype=torch.int64)
    state = policy.initial_state(ROWS, torch.device("cpu"))

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            evaluation = policy.evaluate_actions(observations, actions, state, random_resets(ROWS, STEPS))
        (evaluation.log_probs.sum() + evaluation.values.sum() + evaluation.entropy.sum()).backward()

    step()  # whatever is made once
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        step()
        gc.collect()
        left = [tuple(thing.shape) for thing in gc.garbage if isinstance(thing, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
