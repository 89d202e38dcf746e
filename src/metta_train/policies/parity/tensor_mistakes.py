"""Usual mistakes between two layers: tried on the reference's tensor, compared with the candidate's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metta_train.policies.parity.difference import roughly_equal
from metta_train.policies.parity.findings import Cause

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "gelu (tanh form)": lambda x: functional.gelu(x, approximate="tanh"),
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "silu": functional.silu,
    "selu": functional.selu,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "relu6": functional.relu6,
    "hardtanh": functional.hardtanh,
    "exp": torch.exp,
    "abs": torch.abs,
}
NORMALIZATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "layer normalisation": lambda x: functional.layer_norm(x, x.shape[1:]),
    "root-mean-square normalisation": lambda x: functional.rms_norm(x, x.shape[1:]),
    "scaling to unit length": lambda x: functional.normalize(x, dim=-1),
    "normalisation over the rows": lambda x: (x - x.mean(0)) / x.std(0, unbiased=False).clamp_min(1e-5),
}
NAMES_OF_FEATURE_AXES = {3: ("channels", "height", "width"), 2: ("positions", "channels")}
MAX_SHIFT = 3


def activation_of(before: Tensor, after: Tensor) -> str | None:
    """The function that turns one tensor into the other, whatever the shape; "none" for no function; None = unknown."""
    if before.numel() != after.numel():
        return None
    before, after = before.flatten(), after.flatten()
    if roughly_equal(before, after):
        return "none"
    for name, function in ACTIVATIONS.items():
        if roughly_equal(function(before), after):
            return name
    return None


def activation_mistakes(where: str, before: Tensor, reference: Tensor, candidate: Tensor) -> Iterator[Cause]:
    """Another activation than the reference's between `before` and here.

    Args:
        where: the layer in front, e.g. "cnn2".
        before: what that layer gave out, the same in both policies.
        reference: what the reference made of it.
        candidate: what the candidate made of it.
    """
    ours, theirs = activation_of(before, reference), activation_of(before, candidate)
    if ours is None or ours == theirs:
        return
    if theirs == "none":
        yield Cause("activation-missing", f"{ours} is missing after {where}")
    elif theirs is not None and ours == "none":
        yield Cause("activation-extra", f"{theirs} is applied after {where}, where the reference has no activation")
    elif theirs is not None:
        yield Cause("activation-other", f"{theirs} instead of {ours} after {where}")
    else:
        yield from _activation_and_order(where, ours, before, candidate)


def _activation_and_order(where: str, ours: str, before: Tensor, candidate: Tensor) -> Iterator[Cause]:
    """The right function, then another order of the axes."""
    activated = before if ours == "none" else ACTIVATIONS[ours](before)
    for order, names in _axis_orders(activated):
        if roughly_equal(activated.permute(0, *order).flatten(), candidate.flatten()):
            usual = ", ".join(NAMES_OF_FEATURE_AXES[activated.dim() - 1])
            yield Cause("flatten-order", f"flattened in the order ({names}) instead of ({usual}) after {where}")


def _axis_orders(tensor: Tensor) -> Iterator[tuple[tuple[int, ...], str]]:
    """Orders of the axes behind the rows, other than the present one, that change the tensor."""
    axes = NAMES_OF_FEATURE_AXES.get(tensor.dim() - 1)
    if axes is None:
        return
    usual = tuple(range(1, tensor.dim()))
    for order in itertools.permutations(usual):
        if order != usual:
            yield order, ", ".join(axes[axis - 1] for axis in order)


def tensor_mistakes(
    where: str, reference: Tensor, candidate: Tensor, rows_and_steps: tuple[int, int]
) -> Iterator[Cause]:
    """What was done to the reference's tensor (or was not) to give the candidate's, of the same shape."""
    reference, candidate = reference.float(), candidate.float()
    if not bool(candidate.any()):
        yield Cause("zero", f"{where} is all zero")
        return
    yield from _row_mistakes(where, reference, candidate, rows_and_steps)
    for name, function in ACTIVATIONS.items():
        if roughly_equal(function(reference), candidate):
            yield Cause("activation-extra", f"{name} is applied to {where} once more")
        if roughly_equal(reference, function(candidate)):
            yield Cause("activation-missing", f"{name} is missing on {where}")
    for name, function in NORMALIZATIONS.items():
        if reference.dim() < 2 or reference[0].numel() < 2:
            break
        if roughly_equal(function(reference), candidate):
            yield Cause("normalization", f"{name} is applied to {where}")
        if roughly_equal(reference, function(candidate)):
            yield Cause("normalization", f"{name} is missing on {where}")
    for axis in range(reference.dim()):
        for kind, function in (("softmax", functional.softmax), ("log_softmax", functional.log_softmax)):
            if roughly_equal(function(reference, dim=axis), candidate):
                yield Cause("softmax", f"{kind} over axis {axis} is applied to {where}")
    yield from _shifts(where, reference, candidate)
    for order, names in _axis_orders(reference):
        moved = reference.permute(0, *order)
        if moved.shape == candidate.shape and roughly_equal(moved, candidate):
            yield Cause("axes", f"the axes of {where} are in the order ({names})")
    yield from _scales(where, reference, candidate)


def _row_mistakes(where: str, reference: Tensor, candidate: Tensor, rows_and_steps: tuple[int, int]) -> Iterator[Cause]:
    """Rows and steps taken for each other, or steps in another place."""
    rows, steps = rows_and_steps
    if steps == 1:
        if reference.shape[0] == rows > 1 and roughly_equal(reference.flip(0), candidate):
            yield Cause("time-axis", f"the rows of {where} are in reverse order")
        return
    if reference.shape[:2] == (rows, steps):
        ours, theirs = reference, candidate
    elif reference.shape[0] == rows * steps:
        ours, theirs = reference.unflatten(0, rows_and_steps), candidate.unflatten(0, rows_and_steps)
    else:
        return
    flat = ours.flatten(0, 1)
    if roughly_equal(ours.transpose(0, 1).flatten(0, 1), theirs.flatten(0, 1)):
        yield Cause("time-axis", f"{where} is flattened time first: row t * B + b instead of b * T + t")
    if roughly_equal(flat.unflatten(0, (steps, rows)).transpose(0, 1), theirs):
        yield Cause("time-axis", f"{where} is reshaped to [T, B] instead of [B, T]")
    if roughly_equal(ours.flip(1), theirs):
        yield Cause("time-axis", f"the steps of {where} are in reverse order")
    for shift in range(1, min(MAX_SHIFT, steps - 1) + 1):
        if roughly_equal(ours[:, :-shift], theirs[:, shift:]):
            yield Cause("time-shift", f"{where} comes {shift} step(s) late")
        if roughly_equal(ours[:, shift:], theirs[:, :-shift]):
            yield Cause("time-shift", f"{where} comes {shift} step(s) early")
    if roughly_equal(ours[:, -1:].expand_as(ours), theirs):
        yield Cause("time-axis", f"every step of {where} is the last one")
    if roughly_equal(ours[:, :1].expand_as(ours), theirs):
        yield Cause("time-axis", f"every step of {where} is the first one")


def _shifts(where: str, reference: Tensor, candidate: Tensor) -> Iterator[Cause]:
    for axis in range(1, reference.dim()):
        for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
            if shift and reference.shape[axis] > abs(shift) and roughly_equal(reference.roll(shift, axis), candidate):
                yield Cause("shift", f"{where} is shifted by {shift} along axis {axis}")


def _scales(where: str, reference: Tensor, candidate: Tensor) -> Iterator[Cause]:
    size = float(reference.abs().max())
    if size == 0:
        return
    factor = float((reference * candidate).sum() / reference.square().sum())
    if factor != 0 and roughly_equal(reference * factor, candidate):
        yield Cause("scale", f"{where} is multiplied by {factor:.4g}")
    offset = float((candidate - reference).mean())
    if offset != 0 and roughly_equal(reference + offset, candidate):
        yield Cause("offset", f"{offset:.4g} is added to {where}")
    kept = candidate != 0
    dropped = float((~kept & (reference != 0)).float().mean())
    if 0 < dropped < 1 and bool(kept.any()):
        ratios = candidate[kept] / reference[kept]
        if roughly_equal(ratios, torch.full_like(ratios, float(ratios.median()))):
            yield Cause("dropout", f"{dropped:.0%} of {where} is dropped (as dropout does), the rest is scaled")
    low, high = float(candidate.min()), float(candidate.max())
    inside = (reference > low) & (reference < high)
    if bool(inside.any()) and not bool(inside.all()) and roughly_equal(reference.clamp(low, high), candidate):
        yield Cause("clamp", f"{where} is clamped to {low:.4g}..{high:.4g}")


def wiring_mistakes(
    where: str, candidate: Tensor, others: Sequence[tuple[str, Tensor]], instead: str
) -> Iterator[Cause]:
    """The candidate has another tensor of the reference here, or the sum of two.

    Args:
        where: the layer that reads it.
        candidate: what it reads in the candidate.
        others: other tensors of the reference, with what they are.
        instead: what it should read.
    """
    fitting = [(name, t.float().flatten()) for name, t in others if t.numel() == candidate.numel()]
    flat = candidate.float().flatten()
    for name, tensor in fitting:
        if roughly_equal(tensor, flat):
            yield Cause("wiring", f"{where} reads {name} instead of {instead}")
            return
