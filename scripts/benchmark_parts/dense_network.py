"""The fast network in its plain form, for the arms that are not ours: dense box, torch's layers as they come.

Same layers, sizes, initial values and number of parameters as `agent=fast`; a token box without rules for repeated
tokens, and no resets of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta_train.policies.initialization import EmbeddingMaxAbs, Orthogonal, UniformRange, Zeros
from metta_train.policies.recurrence import lstm_initial_values
from metta_train.specs.environment_spec import GLOBAL_LOCATION, TokenObservation

ROWS = 100


class DenseBox(nn.Module):
    """uint8 `[N, M, 3]` -> float32 `[N, C, H, W]` by one scatter."""

    cells: Tensor
    channels: Tensor
    values: Tensor

    def __init__(self, observation: TokenObservation) -> None:
        super().__init__()
        height, width = observation.window_height, observation.window_width
        self._shape = (observation.num_channels, height, width)
        self._size = observation.num_channels * height * width
        cells = torch.full((256,), self._size, dtype=torch.int64)
        for row in range(height):
            for column in range(width):
                cells[row << 4 | column] = row * width + column
        cells[GLOBAL_LOCATION] = height // 2 * width + width // 2
        channels = torch.full((256, 256), self._size, dtype=torch.int64)
        values = torch.zeros((256, 256))
        channel = 0
        for feature in observation.features:
            if feature.categories:
                for value in range(feature.categories):
                    channels[feature.id, value] = (channel + value) * height * width
                    values[feature.id, value] = 1.0
            else:
                channels[feature.id] = channel * height * width
                values[feature.id] = torch.arange(256) / feature.normalization
            channel += feature.num_channels
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("channels", channels.flatten(), persistent=False)
        self.register_buffer("values", values.flatten(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = tokens.shape[0]
        locations, features, values = tokens.long().unbind(dim=2)
        kinds = features * 256 + values
        places = (self.cells[locations] + self.channels[kinds]).clamp_(max=self._size)
        box = torch.zeros(rows, self._size + 1, device=tokens.device)
        box.scatter_(1, places, self.values[kinds])
        return box[:, : self._size].unflatten(1, self._shape)


class DenseEncoder(nn.Module):
    """Observations to the 128 numbers that the memory takes in."""

    def __init__(self, observation: TokenObservation) -> None:
        super().__init__()
        sides = [((side - 5) // 3 + 1) - 2 for side in (observation.window_height, observation.window_width)]
        self.box = DenseBox(observation)
        self.cnn1 = nn.Conv2d(observation.num_channels, 64, 5, stride=3)
        self.cnn2 = nn.Conv2d(64, 64, 3)
        self.fc1 = nn.Linear(64 * sides[0] * sides[1], 128)
        self.encoded_obs = nn.Linear(128, 128)

    def forward(self, tokens: Tensor) -> Tensor:
        x = functional.relu(self.cnn1(self.box(tokens)))
        x = functional.relu(self.cnn2(x)).flatten(1)
        return functional.relu(self.encoded_obs(functional.relu(self.fc1(x))))


class Heads(nn.Module):
    """Memory's output to logits and values."""

    rows: Tensor

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.critic_1 = nn.Linear(128, 1024)
        self.value = nn.Linear(1024, 1)
        self.actor_1 = nn.Linear(128, 512)
        self.embeddings = nn.Embedding(ROWS, 16)
        self.weight = nn.Parameter(torch.empty(512, 16))
        self.bias = nn.Parameter(torch.empty(1))
        self.register_buffer("rows", torch.arange(1, num_actions + 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = self.value(torch.tanh(self.critic_1(x)))
        query = torch.tanh(functional.relu(self.actor_1(x)) @ self.weight)
        # Log-probabilities of bfloat16 logits would be wrong by more than many updates change them.
        return (query @ self.embeddings(self.rows).t() + self.bias).float(), values.float()


def initialize(encoder: DenseEncoder, heads: Heads, lstm: nn.LSTM, seed: int) -> None:
    """The distributions of our own initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (*encoder.modules(), *heads.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d):
                Orthogonal(2**0.5 if module is heads.critic_1 else 1.0).fill(module.weight, generator)
                if module.bias is not None:
                    Zeros().fill(module.bias, generator)
        EmbeddingMaxAbs(0.1).fill(heads.embeddings.weight, generator)
        UniformRange(512**-0.5).fill(heads.weight, generator)
        UniformRange(512**-0.5).fill(heads.bias, generator)
        for name, initializer in lstm_initial_values(lstm.num_layers, "forget").items():
            initializer.fill(getattr(lstm, name), generator)
