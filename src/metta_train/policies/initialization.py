"""Initial values of parameters; each parameter is filled from a generator of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

LstmBiasMode = Literal["forget", "ones", "zeros"]


class Initializer(ABC):
    """A distribution over the values of one parameter."""

    @abstractmethod
    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        """Write initial values into a CPU tensor; every draw comes from `generator`."""


@dataclass(frozen=True, slots=True)
class Orthogonal(Initializer):
    """A (semi-)orthogonal matrix times `gain`; trailing dimensions are flattened (Saxe et al. 2013)."""

    gain: float = 1.0

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        nn.init.orthogonal_(values, gain=self.gain, generator=generator)


@dataclass(frozen=True, slots=True)
class Constant(Initializer):
    """One value everywhere."""

    value: float

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        values.fill_(self.value)


@dataclass(frozen=True, slots=True)
class Zeros(Initializer):
    """Zero everywhere."""

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        values.zero_()


@dataclass(frozen=True, slots=True)
class UniformRange(Initializer):
    """Uniform in -limit..limit."""

    limit: float

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        values.uniform_(-self.limit, self.limit, generator=generator)


@dataclass(frozen=True, slots=True)
class Normal(Initializer):
    """Normal with mean 0."""

    std: float

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        values.normal_(0.0, self.std, generator=generator)


@dataclass(frozen=True, slots=True)
class XavierUniform(Initializer):
    """Uniform with limit sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        nn.init.xavier_uniform_(values, generator=generator)


@dataclass(frozen=True, slots=True)
class EmbeddingMaxAbs(Initializer):
    """Orthogonal, then scaled so that the largest absolute value is `max_abs`."""

    max_abs: float = 0.1

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        nn.init.orthogonal_(values, generator=generator)
        values.mul_(self.max_abs / values.abs().max())


@dataclass(frozen=True, slots=True)
class LstmInputBias(Initializer):
    """The `bias_ih` of an LSTM layer, torch gate order (input, forget, cell, output).

    forget: 1 for the forget gate and 0 elsewhere, so that memory lasts from the start; ones and zeros: everywhere.
    """

    mode: LstmBiasMode

    def fill(self, values: Tensor, generator: torch.Generator) -> None:
        size = values.shape[0] // 4
        values.fill_(1.0 if self.mode == "ones" else 0.0)
        if self.mode == "forget":
            values[size : 2 * size] = 1.0
