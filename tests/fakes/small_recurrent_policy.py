"""A policy with memory, small enough to follow by hand: one tanh recurrence, unrolled step by step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState


class SmallRecurrentPolicy(Policy):
    """h_t = tanh(x_t W + h_{t-1} U), logits and value linear in h."""

    def __init__(self, spec: EnvironmentSpec, size: int = 4) -> None:
        super().__init__(spec, state_shapes=((size,),))
        inputs = spec.observation.shape[0]
        self.encoder = nn.Linear(inputs, size)
        self.memory = nn.Linear(size, size, bias=False)
        self.actor = nn.Linear(size, len(spec.actions))
        self.critic = nn.Linear(size, 1)

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        (hidden,) = state.tensors
        outputs = []
        for step in range(observations.shape[1]):
            hidden = hidden.masked_fill(resets[:, step, None], 0.0)
            hidden = torch.tanh(self.encoder(observations[:, step] / 10) + self.memory(hidden))
            outputs.append(hidden)
        features = torch.stack(outputs, dim=1)
        return PolicyOutput(self.actor(features), self.critic(features).squeeze(-1), RecurrentState((hidden,)))
