"""Run a policy on a scenario, with or without a record of its operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from metta_train.policies.parity.findings import UnusablePolicyError
from metta_train.policies.parity.scenarios import Scenario
from metta_train.policies.parity.trace import Trace, record
from metta_train.policies.policy import Policy
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TracedRun:
    """A policy's outputs on a scenario, and how it came to them."""

    output: PolicyOutput
    trace: Trace
    wrote_observations: bool


def guarded(who: str, what: str, call: Callable[[], Result]) -> Result:
    """Run code of a user's policy. Raises UnusablePolicyError in one line, whatever the policy raises."""
    try:
        return call()
    except UnusablePolicyError:
        raise
    except Exception as error:  # the policy is somebody else's code and can raise anything
        reason = " ".join(str(error).split())
        if len(reason) > 300:
            reason = reason[:300] + "..."
        raise UnusablePolicyError(f"{who}: {what} raises {type(error).__name__}: {reason}") from error


def traced_run(who: str, policy: Policy, scenario: Scenario) -> TracedRun:
    """Run and record one call; `who` names the policy in errors.

    Raises:
        UnusablePolicyError: it raises, or its outputs do not have the shapes of the contract.
    """
    outputs: list[PolicyOutput] = []
    observations = scenario.observations.clone()
    given = Scenario(scenario.name, observations, scenario.actions, scenario.state, scenario.resets)

    def call() -> Mapping[str, Tensor]:
        output = policy(given.observations, given.state, given.resets)
        check_output(who, policy, scenario, output)
        outputs.append(output)
        states = {f"state {k}": tensor for k, tensor in enumerate(output.state.tensors)}
        return {"logits": output.logits, "values": output.values, **states}

    trace = guarded(who, f"forward ({scenario.name})", lambda: record(policy, given.inputs, call))
    return TracedRun(outputs[0], trace, wrote_observations=not torch.equal(observations, scenario.observations))


def check_output(who: str, policy: Policy, scenario: Scenario, output: object) -> None:
    """Raises UnusablePolicyError if it is not what `Policy.forward` promises."""
    if not isinstance(output, PolicyOutput) or not isinstance(output.state, RecurrentState):
        raise UnusablePolicyError(f"{who}: forward gives a {type(output).__name__}, needs a PolicyOutput")
    rows, steps = scenario.rows_and_steps
    needed = {
        "logits": (output.logits, (rows, steps, len(policy.spec.actions))),
        "values": (output.values, (rows, steps)),
        **{
            f"state tensor {k}": (tensor, (rows, *shape))
            for k, (tensor, shape) in enumerate(zip(output.state.tensors, policy.state_shapes, strict=False))
        },
    }
    if len(output.state.tensors) != len(policy.state_shapes):
        raise UnusablePolicyError(
            f"{who}: forward gives {len(output.state.tensors)} state tensors, needs {len(policy.state_shapes)}"
        )
    for name, (tensor, shape) in needed.items():
        if tuple(tensor.shape) != shape:
            raise UnusablePolicyError(
                f"{who}: {name} have shape {list(tensor.shape)}, need {list(shape)} ({scenario.name})"
            )
