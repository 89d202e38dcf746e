"""Which parameter of one policy belongs to which of the other, and what does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metta_train.policies.parity.findings import Finding, Measurement, Section, UnusablePolicyError
from metta_train.policies.parity.layers import owner
from metta_train.policies.policy import Policy

LEAST_SIMILARITY = 0.3  # of names that are taken for the same parameter


@dataclass(frozen=True, slots=True)
class Pairing:
    """Parameters that belong together.

    Attributes:
        names: the candidate's name -> the reference's; equal names too.
        assumed: candidate names among them that only their shape and a likeness of names put there.
        missing: the reference's that the candidate has no counterpart for.
        extra: the candidate's that belong to none.
        conflicts: one line for each pair of different shapes.
    """

    names: Mapping[str, str]
    assumed: frozenset[str]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    conflicts: tuple[str, ...]


def pair_parameters(reference: Policy, candidate: Policy, given: Mapping[str, str], titles: tuple[str, str]) -> Pairing:
    """By name, by the given map (`candidate name: reference name`; a name may be that of a layer), then by shape.

    Raises:
        ValueError: the map names a parameter that does not exist.
    """
    ours = {name: tuple(p.shape) for name, p in reference.named_parameters()}
    theirs = {name: tuple(p.shape) for name, p in candidate.named_parameters()}
    names = _given_pairs(given, ours, theirs, titles)
    names |= {name: name for name in theirs if name in ours and name not in names and name not in names.values()}
    conflicts = [
        f"{ours_name} is {list(ours[ours_name])} in {titles[0]} and {list(theirs[name])} in {titles[1]}"
        + (f" (there {name})" if name != ours_name else "")
        for name, ours_name in names.items()
        if theirs[name] != ours[ours_name]
    ]
    missing = [name for name in ours if name not in names.values()]
    extra = [name for name in theirs if name not in names]
    assumed = _likely_pairs({name: ours[name] for name in missing}, {name: theirs[name] for name in extra})
    return Pairing(
        names={**names, **assumed},
        assumed=frozenset(assumed),
        missing=tuple(name for name in missing if name not in assumed.values()),
        extra=tuple(name for name in extra if name not in assumed),
        conflicts=tuple(conflicts),
    )


def _given_pairs(
    given: Mapping[str, str],
    ours: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, tuple[int, ...]],
    titles: tuple[str, str],
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for their_name, our_name in given.items():
        inside = {
            name: our_name + name.removeprefix(their_name) for name in theirs if name.startswith(f"{their_name}.")
        }
        found = {their_name: our_name} if their_name in theirs else inside
        if not found:
            raise ValueError(
                f"name map: {titles[1]} has no parameter or layer {their_name!r}{_near(their_name, theirs)}"
            )
        for name, other in found.items():
            if other not in ours:
                raise ValueError(f"name map: {titles[0]} has no parameter {other!r} (for {name!r}){_near(other, ours)}")
            if other in pairs.values():
                raise ValueError(f"name map: {other!r} is given to two parameters of {titles[1]}")
            pairs[name] = other
    return pairs


def _near(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _likely_pairs(ours: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Same shape; the best pair first, and the other parameters of a layer follow its first one."""
    pairs: dict[str, str] = {}
    layers: set[tuple[str, str]] = set()
    while True:
        best: list[tuple[float, str, str]] = []
        free = [other for other in ours if other not in pairs.values()]
        open_names = [name for name in theirs if name not in pairs]
        for name in open_names:
            fitting = [other for other in free if ours[other] == theirs[name]]
            for other in fitting:
                alone = len(fitting) == 1 and [theirs[n] for n in open_names].count(theirs[name]) == 1
                known_layer = (owner(name), owner(other)) in layers
                score = _similarity(name, other) + known_layer + (0.5 if len(theirs[name]) > 1 else 0.0)
                if alone or known_layer or _similarity(name, other) >= LEAST_SIMILARITY:
                    best.append((score, name, other))
        if not best:
            return {name: pairs[name] for name in theirs if name in pairs}
        _, name, other = max(best, key=lambda pair: pair[0])
        pairs[name] = other
        layers.add((owner(name), owner(other)))


def _similarity(name: str, other: str) -> float:
    # The kind of a parameter ("weight", "bias_ih_l0") says more than the name of its layer.
    same_kind = name.rpartition(".")[2] == other.rpartition(".")[2]
    return difflib.SequenceMatcher(None, name, other).ratio() / 2 + (0.5 if same_kind else 0.0)


def compare_structure(reference: Policy, candidate: Policy, pairing: Pairing, titles: tuple[str, str]) -> Section:
    """Names, shapes and counts of parameters, memory and actions."""
    ours = {name: p for name, p in reference.named_parameters()}
    theirs = {name: p for name, p in candidate.named_parameters()}
    counterparts = {our_name: name for name, our_name in pairing.names.items()}
    findings = [Finding(line.partition(" ")[0], line) for line in pairing.conflicts]
    findings += [Finding(name, f"{titles[1]} has no {name} {list(ours[name].shape)}") for name in pairing.missing]
    for name in sorted(pairing.assumed, key=list(pairing.names).index):
        our_name = pairing.names[name]
        findings.append(
            Finding(
                our_name,
                f"{our_name} {list(ours[our_name].shape)} is missing there; taken for it: {name}",
                counterpart=name,
            )
        )
    findings += [Finding(name, f"{titles[1]} alone has {name} {list(theirs[name].shape)}") for name in pairing.extra]
    if reference.state_shapes != candidate.state_shapes:
        shapes = [[list(shape) for shape in policy.state_shapes] for policy in (reference, candidate)]
        findings.append(
            Finding("memory", f"memory per row is {shapes[0]} in {titles[0]} and {shapes[1]} in {titles[1]}")
        )
    if reference.action_names != candidate.action_names:
        findings.append(Finding("actions", "the action names own other rows"))
    measurements = [
        Measurement(
            name,
            None,
            f"{list(p.shape)}" + (f" = {counterparts[name]}" if counterparts.get(name, name) != name else ""),
        )
        for name, p in ours.items()
    ]
    counts = [sum(p.numel() for p in parameters.values()) for parameters in (ours, theirs)]
    return Section(
        name="structure",
        tolerance=0.0,
        summary=f"{len(ours)} and {len(theirs)} parameters, {counts[0]:,} and {counts[1]:,} numbers",
        measurements=tuple(measurements),
        findings=tuple(findings),
    )


def check_transferable(reference: Policy, candidate: Policy, pairing: Pairing, titles: tuple[str, str]) -> None:
    """Raises UnusablePolicyError if the weights or the memory of one cannot be given to the other."""
    if pairing.conflicts:
        first, *others = pairing.conflicts
        more = f" (and {len(others)} more)" if others else ""
        raise UnusablePolicyError(f"the shapes cannot match: {first}{more}")
    if reference.state_shapes != candidate.state_shapes:
        shapes = [[list(shape) for shape in policy.state_shapes] for policy in (reference, candidate)]
        raise UnusablePolicyError(
            f"the shapes cannot match: memory per row is {shapes[0]} in {titles[0]} and {shapes[1]} in {titles[1]}"
        )
    if not pairing.names:
        raise UnusablePolicyError(f"{titles[0]} and {titles[1]} have no parameter in common; give a name map (--names)")


@torch.no_grad()
def copy_weights(reference: Policy, candidate: Policy, names: Mapping[str, str]) -> None:
    """Give the candidate the reference's parameters, and its saved buffers of the same layers."""
    ours = _values(reference)
    layers = {name.rpartition(".")[0]: other.rpartition(".")[0] for name, other in names.items()}
    for name, tensor in _values(candidate).items():
        layer, _, kind = name.rpartition(".")
        source = names.get(name) or f"{layers.get(layer, layer)}.{kind}".removeprefix(".")
        if source in ours and ours[source].shape == tensor.shape:
            tensor.copy_(ours[source])


def _values(policy: Policy) -> dict[str, Tensor]:
    return dict(policy.state_dict(keep_vars=True))
