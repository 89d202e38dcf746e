"""Activations: as the `nonlinearity` of a layer, and as components of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from metta_train.policies.component_graph.component import Built, Component, Signal, Site
from metta_train.policies.settings import nearest

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "nn.ELU": functional.elu,
    "nn.GELU": functional.gelu,
    "nn.LeakyReLU": functional.leaky_relu,
    "nn.Mish": functional.mish,
    "nn.ReLU": functional.relu,
    "nn.SELU": functional.selu,
    "nn.SiLU": functional.silu,
    "nn.Sigmoid": torch.sigmoid,
    "nn.Softplus": functional.softplus,
    "nn.Tanh": torch.tanh,
}


def activation_named(name: str | None) -> Callable[[Tensor], Tensor] | None:
    """The function behind `nn.<Class>`; None for null. Raises ValueError for other names."""
    if name is None:
        return None
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown nonlinearity {name!r}{nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Elementwise(Component):
    """A component that applies one of ACTIVATIONS, its class name in YAML, to its only source."""

    def build(self, site: Site) -> Built:
        return Built(nn.Identity(), Signal(site.one_input()), activation=self._function())

    def _function(self) -> Callable[[Tensor], Tensor]:
        return ACTIVATIONS[f"nn.{type(self).__name__}"]


class ELU(Elementwise):
    """x, or exp(x) - 1 below 0."""


class GELU(Elementwise):
    """x times the normal distribution function of x."""


class LeakyReLU(Elementwise):
    """x, or 0.01 x below 0."""


class Mish(Elementwise):
    """x tanh(softplus(x))."""


class ReLU(Elementwise):
    """max(x, 0)."""


class SELU(Elementwise):
    """Scaled ELU (self-normalising networks)."""


class SiLU(Elementwise):
    """x sigmoid(x)."""


class Sigmoid(Elementwise):
    """1 / (1 + exp(-x))."""


class Softplus(Elementwise):
    """log(1 + exp(x))."""


class Tanh(Elementwise):
    """Hyperbolic tangent."""
