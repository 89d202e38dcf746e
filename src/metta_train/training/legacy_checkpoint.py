"""Weights of the original system under the names of a policy of ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

# What the original called the parts that have other names here; underscores at the ends are left out.
_PARTS = {
    "lstm": "core",
    "value_head": "value",
    "value_fn": "value",
    "action_embeddings": "action_embeds",
    "actor_w": "action.weight",
    "actor_bias": "action.bias",
}
_LEAVES = {"w": "weight", "b": "bias"}
EMBEDDINGS = "action_embeds.weight"


@dataclass(frozen=True, slots=True)
class Matched:
    """The weights that a policy wants, and what stands in the way.

    Attributes:
        weights: by canonical name.
        sources: old name of each of them.
        differences: one line each; empty when all fit and nothing is left over.
    """

    weights: dict[str, Tensor]
    sources: dict[str, str]
    differences: tuple[str, ...]


def match_weights(
    wanted: Mapping[str, Tensor],
    saved: Mapping[str, Tensor],
    *,
    renamed: Mapping[str, str],
    buffers: Collection[str] = (),
    left_out: Sequence[str] = (),
) -> Matched:
    """Find for every parameter of a policy the one old tensor that has its name and its shape.

    Args:
        wanted: parameters by canonical name.
        saved: old tensors.
        renamed: old name to canonical name, where the names do not tell.
        buffers: old names that are no weights.
        left_out: patterns of old names that are not wanted.
    """
    unused = {
        name: tensor
        for name, tensor in saved.items()
        if name in renamed or not (name in buffers or any(fnmatchcase(name, pattern) for pattern in left_out))
    }
    differences = [f"--rename {name}=...: there is no such tensor" for name in renamed if name not in saved]
    differences += [
        f"--rename ...={name}: the policy has no such weight" for name in renamed.values() if name not in wanted
    ]
    weights: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for name, tensor in wanted.items():
        candidates = _candidates(name, unused, renamed)
        fitting = [old for old in candidates if unused[old].shape == tensor.shape]
        if len(fitting) == 1:
            sources[name] = fitting[0]
            weights[name] = unused[fitting[0]].to(tensor.dtype)
        elif fitting:
            differences.append(f"{name} could be any of {', '.join(fitting)}; choose one with --rename OLD={name}")
        elif candidates:
            old = candidates[0]
            differences.append(f"{name} is {list(tensor.shape)} here, and {list(unused[old].shape)} there as {old}")
        else:
            differences.append(f"{name} {list(tensor.shape)} is missing there")
    used = set(sources.values())
    mentioned = {old for name in wanted for old in _candidates(name, unused, renamed)}
    differences += [f"{old} {list(unused[old].shape)} is unknown here" for old in unused if old not in used | mentioned]
    return Matched(weights, sources, tuple(differences))


def rows_from_one(embeddings: Tensor) -> Tensor:
    """An embedding table whose first action owns row 0, with that action in row 1; the last row comes to row 0."""
    return torch.roll(embeddings, 1, dims=0)


def _candidates(name: str, saved: Mapping[str, Tensor], renamed: Mapping[str, str]) -> list[str]:
    chosen = [old for old in saved if renamed.get(old) == name]
    if chosen:
        return chosen
    return [old for old in saved if old not in renamed and _means(old, name)]


def _means(old: str, name: str) -> bool:
    """Whether an old name has the component of the canonical one among its parts, and ends like it."""
    parts = [part.strip("_").lower() for part in old.split(".")]
    parts = [piece for part in parts for piece in _PARTS.get(part, part).split(".")]
    component, _, leaf = name.rpartition(".")
    last = parts[-1].rsplit("_", 1)
    end = _LEAVES.get(parts[-1], parts[-1])
    return component in parts[:-1] and leaf in (end, "_".join(last))
