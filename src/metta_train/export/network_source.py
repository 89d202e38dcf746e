"""The graph of a step as a Python module that needs torch alone, and the tensors that it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node
from torch.fx.node import map_arg

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
    graph, tensors = _plain_graph(program)
    code = graph.python_code("self")
    used = {name for name in code.globals if re.search(rf"\b{name}\b", code.src)}  # fx always offers some more
    if unknown := used - _IMPORTED:
        raise NotExportableError(f"the graph of this agent uses {', '.join(sorted(unknown))}, which is not of torch")
    body = code.src.strip().replace("def forward(self, ", "def step(", 1)
    listed = "\n".join(f'    "{name}",' for name in tensors)
    return NetworkSource(f"{_HEADER.format(title=title, tensors=listed)}{body}\n", tensors)


def _plain_graph(program: ExportedProgram) -> tuple[Graph, dict[str, Tensor]]:
    """The operations alone, under names that depend on nothing else, and the tensors before the observations.

    Without checks of what was recorded, and without changes of buffers.
    """
    inputs = dict(zip(program.graph.find_nodes(op="placeholder"), program.graph_signature.input_specs, strict=True))
    used = _used(program)
    graph, tensors = Graph(), dict[str, Tensor]()
    copies: dict[Node, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and inputs[node].kind is InputKind.USER_INPUT:
            copies[node] = graph.placeholder(node.name)
        elif node not in used:
            continue
        elif node.op == "placeholder":
            name = str(inputs[node].target).removeprefix(PREFIX)
            tensor = _tensor(program, str(inputs[node].target)).detach()
            tensors[name if inputs[node].kind is InputKind.PARAMETER else f"{CONSTANTS}{name}"] = tensor
            copies[node] = graph.placeholder(name.replace(".", "_"))
        elif node.op == "call_function":
            kwargs = {key: value for key, value in node.kwargs.items() if key not in _STATED_BY_THE_CALLER}
            copies[node] = graph.create_node(
                "call_function",
                node.target,
                map_arg(node.args, copies.__getitem__),
                map_arg(kwargs, copies.__getitem__),
            )
        else:
            raise NotExportableError(f"the graph of this agent holds {node.target}, which is no operation of torch")
    graph.output(tuple(copies[node] for node in _results(program)))
    return graph, tensors


def _results(program: ExportedProgram) -> list[Node]:
    """Logits, values and the state after the step."""
    names = [entry.arg.name for entry in program.graph_signature.output_specs if entry.kind is OutputKind.USER_OUTPUT]
    by_name = {node.name: node for node in program.graph.nodes}
    return [by_name[name] for name in names]


def _used(program: ExportedProgram) -> set[Node]:
    """What the results depend on."""
    used: set[Node] = set()
    waiting = _results(program)
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.all_input_nodes
    return used


def _tensor(program: ExportedProgram, target: str) -> Tensor:
    if target in program.state_dict:
        return program.state_dict[target]
    constant = program.constants.get(target)
    if not isinstance(constant, Tensor):
        raise NotExportableError(f"the graph of this agent holds {target}, which is no tensor")
    return constant
