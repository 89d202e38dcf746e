"""The fast network, written by hand; `conf/agent/fast.yaml` is the same network as a graph of components."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta_train.policies.action_rows import EMBEDDING_ROWS
from metta_train.policies.activated_linear import activated_linear
from metta_train.policies.actor_head import ActionEmbedding, EmbeddingActor
from metta_train.policies.convolution import Conv2d, activated_convolution, convolved_side
from metta_train.policies.initialization import EmbeddingMaxAbs, LstmBiasMode, Orthogonal, UniformRange, Zeros
from metta_train.policies.observation import TokenBox, token_observation
from metta_train.policies.py_agents.py_agent import PyAgent
from metta_train.policies.recurrence import lstm_initial_values, lstm_state_shapes, run_lstm
from metta_train.policies.single_output import single_output_behind
from metta_train.policies.token_convolution import convolve_tokens
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState


class CoreOptions(ConfigModel):
    """`bias_init`: forget = 1 in the forget gate's input bias and 0 elsewhere; ones, zeros = everywhere."""

    bias_init: LstmBiasMode


class FastOptions(ConfigModel):
    """The agent's own keys in `conf/py_agent/fast.yaml`."""

    core: CoreOptions


class Fast(PyAgent):
    """Token box, two convolutions, two linear layers, LSTM, and heads for values and actions."""

    Options: ClassVar[type[ConfigModel]] = FastOptions

    def __init__(self, spec: EnvironmentSpec, options: FastOptions) -> None:
        super().__init__(spec, lstm_state_shapes(hidden_size=128, num_layers=2))
        observation = token_observation(spec, "py_agent=fast")
        height, width = (_encoded_side(side) for side in (observation.window_height, observation.window_width))

        self.box = TokenBox(observation)
        self.cnn1 = Conv2d(observation.num_channels, 64, kernel_size=5, stride=3)
        self.cnn2 = Conv2d(64, 64, kernel_size=3)
        self.fc1 = nn.Linear(64 * height * width, 128)
        self.encoded_obs = nn.Linear(128, 128)
        self.core = nn.LSTM(128, 128, num_layers=2, batch_first=True)
        self.critic_1 = nn.Linear(128, 1024)
        self.value = nn.Linear(1024, 1)
        self.actor_1 = nn.Linear(128, 512)
        self.action_embeds = ActionEmbedding(EMBEDDING_ROWS, 16)
        self.action = EmbeddingActor(512, 16)

        for layer in ("cnn1", "cnn2", "fc1", "encoded_obs", "critic_1", "value", "actor_1"):
            gain = math.sqrt(2) if layer == "critic_1" else 1.0  # sqrt 2 before tanh
            self.init_with(f"{layer}.weight", Orthogonal(gain))
            self.init_with(f"{layer}.bias", Zeros())
        for parameter, initializer in lstm_initial_values(num_layers=2, bias_init=options.core.bias_init).items():
            self.init_with(f"core.{parameter}", initializer)
        self.init_with("action_embeds.weight", EmbeddingMaxAbs(0.1))
        self.init_with("action.weight", UniformRange(1 / math.sqrt(512)))
        self.init_with("action.bias", UniformRange(1 / math.sqrt(512)))

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        rows_and_steps = resets.shape  # the layers see [B * T, ...], the LSTM [B, T, ...]

        x = convolve_tokens(self.cnn1, functional.relu, self.box, observations.flatten(0, 1))
        x = activated_convolution(self.cnn2, functional.relu, x)
        x = activated_linear(self.fc1, functional.relu, x.flatten(1))
        x = activated_linear(self.encoded_obs, functional.relu, x)

        x, state = run_lstm(self.core, x.unflatten(0, rows_and_steps), state, resets)
        x = x.flatten(0, 1)

        values = single_output_behind(self.value, self.critic_1, torch.tanh, x)
        hidden = activated_linear(self.actor_1, functional.relu, x)
        logits = self.action(hidden, self.action_embeds(self.active_rows))
        return PolicyOutput(
            logits=logits.unflatten(0, rows_and_steps),
            values=values.squeeze(1).unflatten(0, rows_and_steps),
            state=state,
        )


def _encoded_side(side: int) -> int:
    try:
        return convolved_side(convolved_side(side, kernel_size=5, stride=3), kernel_size=3)
    except ValueError as error:
        raise ValueError(
            f"py_agent=fast: an observation window side of {side} cells is too small for its two convolutions "
            f"(needs at least 11): {error}"
        ) from error
