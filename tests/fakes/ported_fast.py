"""The fast network as somebody would write it who has never seen ours: other names, other calls, no declarations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta_train.policies.observation import TokenBox, token_observation
from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState

NAMES = {
    "encoder.0": "cnn1",
    "encoder.2": "cnn2",
    "encoder.5": "fc1",
    "encoder.7": "encoded_obs",
    "lstm": "core",
    "critic.0": "critic_1",
    "critic.2": "value",
    "actor.0": "actor_1",
    "embeddings": "action_embeds",
    "mix": "action.weight",
    "offset": "action.bias",
}


class PortedFast(Policy):
    """Takes a spec alone; runs the LSTM one step at a time."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec, state_shapes=((2, 128), (2, 128)))
        observation = token_observation(spec, "PortedFast")
        self.box = TokenBox(observation)
        self.encoder = nn.Sequential(
            nn.Conv2d(observation.num_channels, 64, 5, stride=3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(128, 128, num_layers=2)
        self.critic = nn.Sequential(nn.Linear(128, 1024), nn.Tanh(), nn.Linear(1024, 1))
        self.actor = nn.Sequential(nn.Linear(128, 512), nn.ReLU())
        self.embeddings = nn.Embedding(100, 16)
        self.mix = nn.Parameter(torch.randn(1, 512, 16) * 0.02)
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        rows, steps = resets.shape
        encoded = self.encoder(self.box(observations.flatten(0, 1))).view(rows, steps, 128)
        hidden, cell = (tensor.transpose(0, 1).contiguous() for tensor in state.tensors)
        outputs = []
        for step in range(steps):
            keep = (~resets[:, step]).float().view(1, rows, 1)
            output, (hidden, cell) = self.lstm(encoded[:, step].unsqueeze(0), (hidden * keep, cell * keep))
            outputs.append(output.squeeze(0))
        x = torch.stack(outputs, dim=1)
        query = torch.tanh(self.actor(x) @ self.mix[0])
        logits = query @ self.embeddings(self.active_rows).t() + self.offset
        return PolicyOutput(
            logits, self.critic(x).squeeze(-1), RecurrentState((hidden.transpose(0, 1), cell.transpose(0, 1)))
        )
