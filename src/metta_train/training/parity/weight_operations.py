"""Clipping, l2-init, its anchor, l2 and metrics of the weights, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import cast

import torch
from torch import Tensor

from metta_train.policies.parity.difference import largest_difference
from metta_train.policies.parity.findings import Finding, Measurement, Section
from metta_train.policies.parity.forward import Pair
from metta_train.policies.parity.layers import owner
from metta_train.policies.parity.scenarios import give_lively_weights
from metta_train.policies.parity.structure import copy_weights
from metta_train.policies.policy import Policy, WeightLayer
from metta_train.policies.weights import WeightAnchors, clip_weights, l2_init_loss, l2_reg_loss, weight_metrics
from metta_train.training.parity.bench import copies

CLIP_RANGE = 0.5  # cuts every weight that moved beyond half of the largest initial one


def compare_weight_operations(pair: Pair, seed: int, tolerance: float) -> Section:
    """Both policies start from the same weights, are moved to the same other weights, and are operated on."""
    ours, theirs = copies(pair.reference, pair.candidate)
    anchors = WeightAnchors.of(ours), WeightAnchors.of(theirs)
    give_lively_weights(ours, seed + 1)
    copy_weights(ours, theirs, pair.names)
    layers = {layer.name: layer for layer in ours.weight_layers()}
    renamed = {_layer_name(layer.name, pair.names): layer for layer in theirs.weight_layers()}
    findings = _coverage(layers, renamed, pair.titles)
    common = [name for name in layers if name in renamed]
    measurements: list[Measurement] = []

    def measure(subject: str, reference: Tensor, candidate: Tensor) -> None:
        measurements.append(Measurement(subject, largest_difference(reference, candidate)))

    for what, loss in (("l2-init", l2_init_loss), ("l2", lambda policy, _: l2_reg_loss(policy))):
        values = _with_gradients(loss, (ours, theirs), anchors)
        measure(f"{what} loss", *values)
        for name in common:
            measure(f"{what} gradient of {name}", _gradient(layers[name]), _gradient(renamed[name]))
    for policy, own in zip((ours, theirs), anchors, strict=True):
        own.update(policy)
    with torch.no_grad():
        measure(
            "l2-init loss after the anchor moved",
            *(l2_init_loss(p, a) for p, a in zip((ours, theirs), anchors, strict=True)),
        )
    metrics = [{m.layer: m for m in weight_metrics(policy)} for policy in (ours, theirs)]
    by_our_names = {_layer_name(name, pair.names): m for name, m in metrics[1].items()}
    for name in common:
        if (name in metrics[0]) and (name in by_our_names):
            numbers = [
                torch.tensor([_number(getattr(m, f.name)) for f in fields(m) if f.name != "layer"])
                for m in (metrics[0][name], by_our_names[name])
            ]
            measure(f"metrics of {name}", *numbers)
    for policy, own in zip((ours, theirs), anchors, strict=True):
        clip_weights(policy, own, CLIP_RANGE)
    for name in common:
        measure(f"clipped {name}", layers[name].weight, renamed[name].weight)
    findings += [
        Finding(m.subject, f"{m.subject} differs by {m.difference:.3g}", m.difference)
        for m in measurements
        if m.difference is not None and m.difference > tolerance
    ]
    return Section(
        name="weights",
        tolerance=tolerance,
        summary=f"clip, l2-init, anchor, l2 and metrics of {len(common)} layers",
        measurements=tuple(measurements),
        findings=tuple(findings),
    )


def _layer_name(layer: str, names: Mapping[str, str]) -> str:
    """The reference's name of a candidate's layer."""
    return owner(names.get(f"{layer}.weight", f"{layer}.weight"))


def _coverage(
    ours: Mapping[str, WeightLayer], theirs: Mapping[str, WeightLayer], titles: tuple[str, str]
) -> list[Finding]:
    findings = [
        Finding(
            name, f"{name} is no layer of {titles[1]}: only nn.Linear and nn.Conv2d are clipped, pulled and reported"
        )
        for name in ours
        if name not in theirs
    ]
    findings += [
        Finding(name, f"{name} is a layer of {titles[1]} alone: it is clipped, pulled and reported only there")
        for name in theirs
        if name not in ours
    ]
    for name in ours:
        if name in theirs:
            for setting in ("clip_scale", "l2_init_scale", "analyze"):
                values = [getattr(layer, setting) for layer in (ours[name], theirs[name])]
                if values[0] != values[1]:
                    findings.append(Finding(name, f"{setting} of {name} is {values[1]} against {values[0]}"))
    return findings


def _with_gradients(
    loss: Callable[[Policy, WeightAnchors], Tensor],
    policies: tuple[Policy, Policy],
    anchors: tuple[WeightAnchors, WeightAnchors],
) -> tuple[Tensor, Tensor]:
    values = []
    for policy, own in zip(policies, anchors, strict=True):
        policy.zero_grad(set_to_none=True)
        value = loss(policy, own)
        if value.requires_grad:
            value.backward()
        values.append(value.detach())
    return cast("tuple[Tensor, Tensor]", tuple(values))


def _gradient(layer: WeightLayer) -> Tensor:
    gradient = layer.weight.grad
    return torch.zeros_like(layer.weight) if gradient is None else gradient


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
