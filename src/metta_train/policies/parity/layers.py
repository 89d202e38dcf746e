"""The layers of a trace, and two traces compared layer by layer.

A layer is the module that owns parameters; what it takes in and gives out is what the operations on its parameters do,
whether the module itself runs or a function is called on its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metta_train.policies.parity.difference import largest_difference
from metta_train.policies.parity.trace import Operation, Trace

Side = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One use of a layer's parameters: the operations on them, none of which uses a parameter twice.

    Attributes:
        layer: path of the owning module, e.g. "cnn1"; the parameter's own name where the policy itself owns it.
        operations: indices in the trace, ascending.
        inputs: data that the first operation took.
        sources: of the inputs, as in `Operation.sources`.
        outputs: results of the last operation.
    """

    layer: str
    operations: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    sources: tuple[int | str, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place where both traces are compared.

    Attributes:
        layer: the layer, or "logits", "values", "state 0", ... for the policy's results.
        side: whether it is what the layer took in or gave out.
        number: which of the layer's inputs or outputs.
        reference: the reference's tensor.
        candidate: the candidate's, brought to the reference's layout; None where the two are not comparable.
        source: where the reference's tensor came from.
        difference: largest absolute difference; None where they are not comparable.
    """

    layer: str
    side: Side
    number: int
    reference: Tensor
    candidate: Tensor | None
    source: int | str
    difference: float | None
    note: str = ""


def owner(parameter: str) -> str:
    """The layer that a parameter belongs to."""
    return parameter.rpartition(".")[0] or parameter


def layer_calls(trace: Trace) -> list[LayerCall]:
    """In order of their first operation."""
    calls: list[list[int]] = []
    layers: list[str] = []
    open_calls: dict[str, int] = {}
    used: dict[str, set[str]] = {}
    for index, operation in enumerate(trace.operations):
        for layer in dict.fromkeys(owner(name) for name in operation.parameters):
            own = {name for name in operation.parameters if owner(name) == layer}
            if layer not in open_calls or used[layer] & own:
                open_calls[layer] = len(calls)
                used[layer] = set()
                calls.append([])
                layers.append(layer)
            calls[open_calls[layer]].append(index)
            used[layer] |= own
    return [_call(trace, layer, indices) for layer, indices in zip(layers, calls, strict=True)]


def _call(trace: Trace, layer: str, indices: Sequence[int]) -> LayerCall:
    first, last = trace.operations[indices[0]], trace.operations[indices[-1]]
    return LayerCall(layer, tuple(indices), first.inputs, first.sources, last.outputs)


def compare_layers(reference: Trace, candidate: Trace, rows_and_steps: tuple[int, int]) -> list[Checkpoint]:
    """All comparable places in the reference's order of execution, the policies' results last."""
    ours, theirs = _by_layer(layer_calls(reference)), _by_layer(layer_calls(candidate))
    placed: list[tuple[int, int, Checkpoint]] = []
    for layer, calls in ours.items():
        others = theirs.get(layer, [])
        for number, call in enumerate(calls):
            if len(others) == len(calls):
                placed += _compare_call(call, others[number], rows_and_steps)
            elif number == 0:
                note = f"{len(calls)} calls against {len(others)}"
                place = Checkpoint(layer, "output", 0, call.outputs[0], None, call.operations[-1], None, note)
                placed.append((call.operations[-1], 1, place))
    checkpoints = [checkpoint for _, _, checkpoint in sorted(placed, key=lambda item: item[:2])]
    for name, tensor in reference.outputs.items():
        other = candidate.outputs[name]
        checkpoints.append(
            Checkpoint(
                layer=name,
                side="output",
                number=0,
                reference=tensor,
                candidate=other,
                source=reference.output_sources[name],
                difference=largest_difference(tensor, other),
            )
        )
    return checkpoints


def _by_layer(calls: Sequence[LayerCall]) -> dict[str, list[LayerCall]]:
    found: dict[str, list[LayerCall]] = {}
    for call in calls:
        found.setdefault(call.layer, []).append(call)
    return found


def _compare_call(
    ours: LayerCall, theirs: LayerCall, rows_and_steps: tuple[int, int]
) -> list[tuple[int, int, Checkpoint]]:
    places: list[tuple[int, int, Checkpoint]] = []
    first, last = ours.operations[0], ours.operations[-1]
    for number, (tensor, source) in enumerate(zip(ours.inputs, ours.sources, strict=True)):
        other = theirs.inputs[number] if number < len(theirs.inputs) else None
        places.append((first, 0, _checkpoint(ours.layer, "input", number, tensor, other, source, rows_and_steps)))
    for number, tensor in enumerate(ours.outputs):
        other = theirs.outputs[number] if number < len(theirs.outputs) else None
        places.append((last, 1, _checkpoint(ours.layer, "output", number, tensor, other, last, rows_and_steps)))
    return places


def _checkpoint(
    layer: str,
    side: Side,
    number: int,
    reference: Tensor,
    candidate: Tensor | None,
    source: int | str,
    rows_and_steps: tuple[int, int],
) -> Checkpoint:
    if candidate is None:
        return Checkpoint(layer, side, number, reference, None, source, None, "the candidate has no such input")
    fitted = in_layout_of(reference, candidate, rows_and_steps)
    if fitted is None:
        note = f"shape {list(reference.shape)} against {list(candidate.shape)}"
        return Checkpoint(layer, side, number, reference, None, source, None, note)
    difference = largest_difference(reference, fitted)
    return Checkpoint(layer, side, number, reference, fitted, source, difference)


def in_layout_of(reference: Tensor, candidate: Tensor, rows_and_steps: tuple[int, int]) -> Tensor | None:
    """The candidate's tensor in the reference's shape: rows and steps flat or apart, batch first or time first.

    None where the shapes do not allow it.
    """
    if candidate.numel() != reference.numel() or candidate.dtype.is_floating_point != reference.dtype.is_floating_point:
        return None
    if candidate.shape == reference.shape:
        return candidate
    rows, steps = rows_and_steps
    if rows != steps and candidate.shape[:2] == (steps, rows):
        candidate = candidate.transpose(0, 1)
    leading = _features(reference.shape, rows_and_steps)
    if leading is None or leading != _features(candidate.shape, rows_and_steps):
        squeezed = [side for side in candidate.shape if side != 1]
        if squeezed != [side for side in reference.shape if side != 1]:
            return None
    return candidate.reshape(reference.shape)


def _features(shape: torch.Size, rows_and_steps: tuple[int, int]) -> tuple[int, ...] | None:
    rows, steps = rows_and_steps
    if shape[:2] == (rows, steps):
        return tuple(shape[2:])
    if shape[:1] == (rows * steps,):
        return tuple(shape[1:])
    return None


def first_difference(checkpoints: Sequence[Checkpoint], tolerance: float) -> Checkpoint | None:
    """The first place whose difference is beyond the tolerance."""
    for checkpoint in checkpoints:
        if checkpoint.difference is not None and checkpoint.difference > tolerance:
            return checkpoint
    return None


@dataclass(frozen=True, slots=True)
class Origin:
    """What stands before a place in the reference.

    Attributes:
        layer: the nearest layer, or the module that prepares the observations, or "observations".
        kind: whether the way back ends at a layer, at the observations, or at the recurrent state alone.
        between: the operations on the way, in order.
        tensor: what the nearest layer gave out; None where there is no single one.
    """

    layer: str
    kind: Literal["layer", "observations", "state"]
    between: tuple[Operation, ...]
    tensor: Tensor | None


def origin(trace: Trace, checkpoint: Checkpoint) -> Origin:
    """Go back from a place of the reference to what made it; a layer's own output is made by the layer."""
    way = trace.way_back(checkpoint.source)
    between = tuple(trace.operations[index] for index in way.between)
    if way.layers:
        nearest = trace.operations[max(way.layers)]
        return Origin(owner(nearest.parameters[0]), "layer", between, nearest.outputs[0])
    if way.inputs and all(name.startswith("state ") or name == "resets" for name in way.inputs):
        return Origin(checkpoint.layer, "state", between, None)
    modules = [operation.module for operation in between if operation.module]
    return Origin(modules[-1] if modules else "observations", "observations", between, None)
