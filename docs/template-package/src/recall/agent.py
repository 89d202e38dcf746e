"""The smallest agent with a memory for observations that are vectors."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from metta_train.policies.initialization import Orthogonal, Zeros
from metta_train.policies.py_agents.py_agent import PyAgent
from metta_train.policies.recurrence import lstm_initial_values, lstm_state_shapes, run_lstm
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState


class ListenerOptions(ConfigModel):
    """The agent's own keys in conf/py_agent/listener.yaml."""

    hidden_size: Annotated[int, Field(gt=0)]


class Listener(PyAgent):
    """A linear layer, an LSTM, two heads."""

    Options: ClassVar[type[ConfigModel]] = ListenerOptions

    def __init__(self, spec: EnvironmentSpec, options: ListenerOptions) -> None:
        if not isinstance(spec.observation, BoxObservation):
            raise ValueError(f"py_agent=listener: reads vectors, and {spec.name} shows tokens; choose py_agent=fast")
        size = options.hidden_size
        super().__init__(spec, lstm_state_shapes(size, num_layers=1))
        self.encoder = nn.Linear(math.prod(spec.observation.shape), size)
        self.core = nn.LSTM(size, size, num_layers=1, batch_first=True)
        self.actor = nn.Linear(size, len(spec.actions))
        self.critic = nn.Linear(size, 1)

        for layer in ("encoder", "actor", "critic"):
            self.init_with(f"{layer}.weight", Orthogonal())
            self.init_with(f"{layer}.bias", Zeros())
        for name, initializer in lstm_initial_values(num_layers=1, bias_init="forget").items():
            self.init_with(f"core.{name}", initializer)

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        x = self.encoder(observations.flatten(2).to(self.encoder.weight.dtype)).tanh()
        x, state = run_lstm(self.core, x, state, resets)
        return PolicyOutput(logits=self.actor(x), values=self.critic(x).squeeze(-1), state=state)
