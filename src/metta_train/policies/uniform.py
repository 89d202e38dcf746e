"""The baseline: every action with the same probability, every value 0, no memory."""

from __future__ import annotations

import torch
from torch import Tensor

from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState


class UniformPolicy(Policy):
    """Acts at random; what a trained policy is compared to."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec, state_shapes=())

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        """See `Policy.forward`."""
        steps = resets.shape
        logits = torch.zeros(*steps, len(self.spec.actions), device=resets.device)
        return PolicyOutput(logits, torch.zeros(steps, device=resets.device), state)
