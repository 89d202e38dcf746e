"""Weight operations: one definition for every policy, over its nn.Linear and nn.Conv2d weights (biases excluded)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from metta_train.policies.policy import Policy
from metta_train.specs.records import WeightMetrics

COLLAPSED = 1e-10  # a singular value up to this is a lost dimension
RANK_SHARE = 0.99  # the effective rank is how many singular values hold this share of their sum
FEWEST_FOR_REGRESSION = 6  # singular values


class WeightAnchors:
    """What the weights are compared to: their values at an anchor, and how large they were at the start.

    `update` moves the values (what the l2-init loss pulls towards); the clip limits stay those of the start.
    """

    def __init__(self, values: Mapping[str, Tensor], max_abs: Mapping[str, Tensor]) -> None:
        self._values = dict(values)
        self._max_abs = dict(max_abs)
        self._copies: dict[str, Tensor] | None = None  # of everything, as it stands

    @classmethod
    def of(cls, policy: Policy) -> WeightAnchors:
        """Anchors at the policy's present weights, on its device."""
        weights = {layer.name: layer.weight.detach().clone() for layer in policy.weight_layers()}
        return cls(weights, {name: weight.abs().max() for name, weight in weights.items()})

    def value(self, layer: str) -> Tensor:
        """The weight that the l2-init loss pulls the layer towards."""
        return self._values[layer]

    def max_abs(self, layer: str) -> Tensor:
        """Scalar: the largest absolute weight at the start."""
        return self._max_abs[layer]

    def update(self, policy: Policy) -> None:
        """Move the l2-init anchor to the policy's present weights."""
        for layer in policy.weight_layers():
            self._values[layer.name].copy_(layer.weight.detach())
        self._copies = None

    def copies(self) -> Mapping[str, Tensor]:
        """Copies of `tensors()`, the same ones until something changes."""
        if self._copies is None:
            self._copies = {name: tensor.clone() for name, tensor in self.tensors().items()}
        return self._copies

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name, for a checkpoint."""
        return {
            **{f"value.{name}": tensor for name, tensor in self._values.items()},
            **{f"max_abs.{name}": tensor for name, tensor in self._max_abs.items()},
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors()` gave.

        Raises:
            ValueError: names or shapes are those of another network; nothing is changed then.
        """
        own = self.tensors()
        if own.keys() != tensors.keys():
            raise ValueError(f"weight anchors: {sorted(own.keys() ^ tensors.keys())[0]!r} is on one side only")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(
                    f"weight anchors: {name!r} has shape {list(tensors[name].shape)}, needs {list(tensor.shape)}"
                )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self._copies = None


@torch.no_grad()
def clip_weights(policy: Policy, anchors: WeightAnchors, clip_range: float) -> None:
    """Clamp each weight to +-clip_range * max|w at the start| * clip_scale; a limit of 0 clips nothing."""
    if clip_range <= 0:
        return
    for layer in policy.weight_layers():
        factor = clip_range * layer.clip_scale
        if factor > 0:
            limit = anchors.max_abs(layer.name) * factor
            limit = limit.masked_fill(limit == 0, math.inf)
            layer.weight.clamp_(-limit, limit)


def l2_init_loss(policy: Policy, anchors: WeightAnchors) -> Tensor:
    """Sum over layers of l2_init_scale * sum (w - w_anchor)^2, with gradient (Kumar et al. 2023)."""
    total = policy.active_rows.new_zeros((), dtype=torch.float32)
    for layer in policy.weight_layers():
        if layer.l2_init_scale > 0:
            total = total + layer.l2_init_scale * (layer.weight - anchors.value(layer.name)).square().sum()
    return total


def l2_reg_loss(policy: Policy) -> Tensor:
    """Sum over layers of sum w^2, with gradient."""
    total = policy.active_rows.new_zeros((), dtype=torch.float32)
    for layer in policy.weight_layers():
        total = total + layer.weight.square().sum()
    return total


def weight_metrics(policy: Policy) -> tuple[WeightMetrics, ...]:
    """The spectrum of each analysed layer; a convolution's weight is the matrix `[out, in * height * width]`."""
    return tuple(analyze_weight(layer.name, layer.weight) for layer in policy.weight_layers() if layer.analyze)


def analyze_weight(name: str, weight: Tensor) -> WeightMetrics:
    """Metrics of one weight (reference 3.2), in float64 on the CPU. None where a metric is not defined.

    collapsed_dim is a fraction 0..1. sv_loglog_*: linear regression of log(singular value) on log(1, 2, ...), over
    the values that are not collapsed.
    """
    matrix = weight.detach().to("cpu", torch.float64).flatten(1)
    norm = float(matrix.norm())
    if not math.isfinite(norm):
        return WeightMetrics(name, norm, *[None] * 7)
    values = torch.linalg.svdvals(matrix)  # descending
    held = values[values > COLLAPSED]
    slope, r2 = _loglog_regression(held)
    return WeightMetrics(
        layer=name,
        weight_norm=norm,
        mean_sv=float(values.mean()),
        largest_sv=float(values[0]),
        collapsed_dim=1.0 - len(held) / len(values),
        sv_ratio=float(held[0] / held[-1]) if len(held) else None,
        sv_loglog_r2=r2,
        sv_loglog_slope=slope,
        effective_rank=_effective_rank(values),
    )


def _loglog_regression(values: Tensor) -> tuple[float | None, float | None]:
    """(slope, r2) of a least-squares line through (log index, log value)."""
    if len(values) < FEWEST_FOR_REGRESSION:
        return None, None
    x = torch.arange(1, len(values) + 1, dtype=values.dtype).log()
    y = values.log()
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / x.square().sum())
    variation = float(y.square().sum())
    return slope, 1.0 - float((y - slope * x).square().sum()) / variation if variation > 0 else None


def _effective_rank(values: Tensor) -> float | None:
    """The smallest k whose k largest values hold RANK_SHARE of the sum."""
    if len(values) < 2 or values[0] <= COLLAPSED:
        return None
    return float((values.cumsum(0) < RANK_SHARE * values.sum()).sum() + 1)
