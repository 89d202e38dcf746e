"""The way through the network that a plan describes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from metta_train.policies.policy import Policy
from metta_train.training.batching import BatchPlan
from metta_train.training.learners.messages import PolicyRecipe
from metta_train.training.learners.network_pass import NetworkPass, OwnPass
from metta_train.training.learners.shared_pass import SharedPass


def build_network_pass(
    policy: Policy, recipe: PolicyRecipe, plan: BatchPlan, check: Callable[[], None] = lambda: None
) -> NetworkPass:
    """For minibatches of the plan's size; several learners start at once and import meanwhile.

    Args:
        policy: on its device, with its action names.
        recipe: builds a policy like it in another process.
        plan: sizes.
        check: called while waiting for other processes; what it raises abandons the pass.
    """
    if plan.learners == 1:
        return OwnPass(policy, plan.precision, plan.piece_segments)
    ends = [plan.minibatch_segments * learner // plan.learners for learner in range(plan.learners + 1)]
    return SharedPass(
        policy,
        recipe,
        shares=[end - first for first, end in itertools.pairwise(ends)],
        horizon=plan.bptt_horizon,
        precision=plan.precision,
        piece_segments=max(1, plan.piece_segments // plan.learners),
        check=check,
    )
