"""Usual mistakes with a layer's parameters: each is made in a copy of the reference, which then runs again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metta_train.policies.parity.findings import Cause

GATES = ("input", "forget", "cell", "output")  # torch's order
MAX_ROW_SHIFT = 3


@dataclass(frozen=True, slots=True)
class ParameterMistake:
    """Parameters of a layer as a wrong candidate would use them."""

    cause: Cause
    values: dict[str, Tensor]


def parameter_mistakes(
    layer: str, parameters: dict[str, Tensor], module: nn.Module | None
) -> Iterator[ParameterMistake]:
    """Everything to try on one layer, the simplest first.

    Args:
        layer: its name, for people.
        parameters: its own parameters, by name inside the layer ("weight", "bias", ...).
        module: the layer, where it is one; tells an embedding and an LSTM from other layers.
    """
    biases = {name: value for name, value in parameters.items() if "bias" in name}
    for name, value in biases.items():
        yield ParameterMistake(
            Cause("bias-missing", f"the bias of {layer} is missing ({name})"), {name: torch.zeros_like(value)}
        )
    if len(biases) > 1:
        zeros = {name: torch.zeros_like(value) for name, value in biases.items()}
        yield ParameterMistake(Cause("bias-missing", f"the biases of {layer} are missing"), zeros)
    for name, value in biases.items():
        yield ParameterMistake(Cause("bias-twice", f"the bias of {layer} is added twice ({name})"), {name: 2 * value})
    if isinstance(module, nn.Embedding):
        table = parameters["weight"]
        for shift in [k for step in range(1, MAX_ROW_SHIFT + 1) for k in (step, -step)]:
            rows = f"row k{shift:+d} is read where the reference reads row k"
            yield ParameterMistake(
                Cause("embedding-shift", f"the rows of {layer} are shifted: {rows}"), {"weight": table.roll(-shift, 0)}
            )
        yield ParameterMistake(
            Cause("embedding-order", f"the rows of {layer} are read in reverse order"), {"weight": table.flip(0)}
        )
        unit = table / table.norm(dim=1, keepdim=True).clamp_min(1e-12)
        yield ParameterMistake(
            Cause("normalization", f"the rows of {layer} are scaled to unit length"), {"weight": unit}
        )
    if isinstance(module, nn.RNNBase):
        yield from _recurrent(layer, parameters, module)
    for name, value in parameters.items():
        if value.dim() == 4:
            yield ParameterMistake(
                Cause("axes", f"height and width are swapped in the kernels of {layer}"),
                {name: value.transpose(-1, -2).contiguous()},
            )
            yield ParameterMistake(
                Cause("kernel-flipped", f"the kernels of {layer} are mirrored"), {name: value.flip(-1, -2)}
            )
        if value.dim() >= 2 and value.shape[-1] == value.shape[-2] and value.dim() != 4:
            yield ParameterMistake(
                Cause("weight-transposed", f"the weight of {layer} is transposed ({name})"),
                {name: value.transpose(-1, -2).contiguous()},
            )
        if value.dim() >= 2:
            yield ParameterMistake(
                Cause("weight-sign", f"the weight of {layer} has the other sign ({name})"), {name: -value}
            )


def _recurrent(layer: str, parameters: dict[str, Tensor], module: nn.RNNBase) -> Iterator[ParameterMistake]:
    if isinstance(module, nn.LSTM):
        usual = tuple(range(4))
        for order in itertools.permutations(usual):
            if order == usual:
                continue
            names = ", ".join(GATES[gate] for gate in order)
            yield ParameterMistake(
                Cause("gate-order", f"the gates of {layer} are in the order ({names}) instead of ({', '.join(GATES)})"),
                {
                    name: torch.cat([value.chunk(4)[order.index(gate)] for gate in usual])
                    for name, value in parameters.items()
                },
            )
    for bias in ("bias_ih", "bias_hh"):
        yield ParameterMistake(
            Cause("bias-missing", f"{bias} of {layer} is missing in every layer"),
            {name: torch.zeros_like(value) for name, value in parameters.items() if name.startswith(bias)},
        )
        yield ParameterMistake(
            Cause("bias-twice", f"{bias} of {layer} is used in place of the other bias"),
            {
                name: parameters[f"{bias}_{name.split('_', 2)[2]}"]
                for name in parameters
                if name.startswith("bias") and f"{bias}_{name.split('_', 2)[2]}" in parameters
            },
        )
    if module.num_layers > 1 and module.input_size == module.hidden_size:
        last = module.num_layers - 1
        yield ParameterMistake(
            Cause("layer-order", f"the layers of {layer} are in reverse order"),
            {
                name: parameters[f"{name.rpartition('_l')[0]}_l{last - int(name.rpartition('_l')[2])}"]
                for name in parameters
                if name.rpartition("_l")[2].isdigit()
            },
        )
