"""Pairs of policies with the same lively weights, and what the forward comparison says of them."""

from __future__ import annotations

from metta_train.policies.parity.findings import Section
from metta_train.policies.parity.forward import Pair, compare_forward
from metta_train.policies.parity.scenarios import give_lively_weights, scenarios
from metta_train.policies.policy import Policy
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import EnvironmentSpec, Feature, TokenObservation
from tests.policies.agents import build

PAIRS_OF_ACTIONS = ActionTable.from_pairs(["attack", "move", "noop"], [8, 1, 0])
TITLES = ("reference", "candidate")


def spec(
    height: int = 11,
    width: int = 11,
    num_features: int = 25,
    num_tokens: int = 200,
    actions: ActionTable = PAIRS_OF_ACTIONS,
) -> EnvironmentSpec:
    """Different normalizations; feature 3 is categorical where there are so many; ids have gaps where they can."""
    step = 2 if num_features <= 120 else 1
    features = tuple(
        Feature(step * k, f"feature_{k}", float(1 + k % 7 * 3), categories=5 if k == 3 else 0)
        for k in range(num_features)
    )
    return EnvironmentSpec("made up", 4, TokenObservation(num_tokens, height, width, features), actions)


def compared(candidate: Policy, tolerance: float = 0.0, seed: int = 0, reference: str = "agent=fast") -> Section:
    """The candidate against a shipped agent of the same spec and weights."""
    ours = build(reference, candidate.spec, seed=seed)
    give_lively_weights(ours, seed)
    candidate.load_state_dict(ours.state_dict())
    given = scenarios(candidate.spec, candidate.state_shapes, seed)
    return compare_forward(Pair(ours, candidate.train(), {}, TITLES), given, tolerance)
