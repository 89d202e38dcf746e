"""The graph of a step as a Python module that needs torch alone, and the tensors that it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node

from metta_train.export.step_graph import NotExportableError

PREFIX = "policy."  # of parameters and buffers in the graph
CONSTANTS = "graph/"  # before the names of tensors that are no parameters; canonical names have no slash

_IMPORTED = {"torch", "device", "inf", "nan"}  # by the header
_STATED_BY_THE_CALLER = ("device", "pin_memory", "layout")  # `with torch.device(...)` says where tensors are made
_HEADER = '''\
"""{title}

Made by metta-export: one step of the network, as torch recorded it. TENSORS are the names, in a safetensors file, of
the tensors that come before the observations; the state follows the resets and comes back behind logits and values.
"""

import torch
from torch import device, inf, nan  # noqa: F401

TENSORS = (
{tensors}
)


'''


@dataclass(frozen=True, slots=True)
class NetworkSource:
    """A module with the function `step(*tensors, observations, resets, *state)`, and what `tensors` are."""

    text: str
    tensors: Mapping[str, Tensor]  # parameters under their canonical names, others with CONSTANTS in front


def network_source(program: ExportedProgram, title: str) -> NetworkSource:
    """Write a graph of `step_graph.py` down.

    Args:
        program: the graph.
        title: first line of the module's description.

    Raises:
        NotExportableError: the graph has parts that are no plain torch operations.
    """
    graph = _plain_graph(program)
    tensors: dict[str, Tensor] = {}
    for entry, node in zip(program.graph_signature.input_specs, graph.find_nodes(op="placeholder"), strict=True):
        if entry.kind is InputKind.USER_INPUT:
            continue
        if not node.users:  # what only the counting of tokens, or the like, had used
            graph.erase_node(node)
            continue
        name = str(entry.target).removeprefix(PREFIX)
        tensor = _tensor(program, str(entry.target))
        tensors[name if entry.kind is InputKind.PARAMETER else f"{CONSTANTS}{name}"] = tensor.detach()
    code = graph.python_code("self")
    used = {name for name in code.globals if re.search(rf"\b{name}\b", code.src)}  # fx always offers some more
    if unknown := used - _IMPORTED:
        raise NotExportableError(f"the graph of this agent uses {', '.join(sorted(unknown))}, which is not of torch")
    body = code.src.strip().replace("def forward(self, ", "def step(", 1)
    listed = "\n".join(f'    "{name}",' for name in tensors)
    return NetworkSource(f"{_HEADER.format(title=title, tensors=listed)}{body}\n", tensors)


def _tensor(program: ExportedProgram, target: str) -> Tensor:
    if target in program.state_dict:
        return program.state_dict[target]
    constant = program.constants.get(target)
    if not isinstance(constant, Tensor):
        raise NotExportableError(f"the graph of this agent holds {target}, which is no tensor")
    return constant


def _plain_graph(program: ExportedProgram) -> Graph:
    """Without checks of what was recorded, and without changes of buffers."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    results: object = graph.graph_copy(program.graph, copies)
    assert isinstance(results, tuple)
    kinds = [entry.kind for entry in program.graph_signature.output_specs]
    graph.output(tuple(node for node, kind in zip(results, kinds, strict=True) if kind is OutputKind.USER_OUTPUT))
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        else:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key not in _STATED_BY_THE_CALLER}
    graph.eliminate_dead_code()
    return graph
