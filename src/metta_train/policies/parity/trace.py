"""Record every torch operation of a forward pass, with copies of what went in and came out.

Operations are seen through torch's function mode, so functional calls, operators and tensor methods count like modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a torch function.

    Attributes:
        name: of the function, e.g. "relu".
        module: path of the innermost module that was running; "" for the policy itself.
        parameters: names of the parameters that it combined with data; empty for operations on data alone.
        inputs: copies of its tensor arguments that are data, before the call.
        sources: where each input came from: the index of an operation, or the name of an input of the policy.
        outputs: copies of its tensor results.
    """

    name: str
    module: str
    parameters: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    sources: tuple[int | str, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The operations of one forward pass in order, and where its results came from."""

    operations: tuple[Operation, ...]
    outputs: Mapping[str, Tensor]  # "logits", "values", "state 0", ...
    output_sources: Mapping[str, int | str]

    def way_back(self, source: int | str) -> WayBack:
        """From a tensor back to the nearest layers and policy inputs that it was made from."""
        layers: set[int] = set()
        inputs: set[str] = set()
        between: set[int] = set()
        waiting: list[int | str] = [source]
        while waiting:
            here = waiting.pop()
            if isinstance(here, str):
                inputs.add(here)
            elif self.operations[here].parameters:
                layers.add(here)
            elif here not in between:
                between.add(here)
                waiting.extend(self.operations[here].sources)
        return WayBack(tuple(sorted(layers)), frozenset(inputs), tuple(sorted(between)))


@dataclass(frozen=True, slots=True)
class WayBack:
    """What a tensor was made from.

    Attributes:
        layers: indices of the nearest operations that use parameters.
        inputs: names of the policy's inputs that lead here without one.
        between: indices of the operations on data alone that lie between, ascending.
    """

    layers: tuple[int, ...]
    inputs: frozenset[str]
    between: tuple[int, ...]


class Recorder(TorchFunctionMode):
    """Collects operations while it is active; use it through `record`."""

    def __init__(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._alive: list[Tensor] = []  # ids are unique only among living tensors
        self._weights: dict[int, tuple[str, ...]] = {id(p): (name,) for name, p in policy.named_parameters()}
        # Buffers and fresh whole numbers (indices) are as fixed as parameters. Other fresh tensors may hold what left
        # torch on the way, through a list or NumPy.
        self._constants: set[int] = {id(b) for b in policy.buffers()}
        self._sources: dict[int, int | str] = {id(tensor): name for name, tensor in inputs.items()}
        self._modules: list[str] = []

    def source(self, tensor: Tensor) -> int | str:
        """Where a tensor comes from; a tensor that no recorded operation made is "unknown"."""
        return self._sources.get(id(tensor), "unknown")

    def enter(self, module: str) -> None:
        self._modules.append(module)

    def leave(self) -> None:
        self._modules.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever torch returns
        kwargs = kwargs or {}
        arguments = list(_tensors((args, kwargs)))
        data = [t for t in arguments if id(t) not in self._weights and id(t) not in self._constants]
        copies = [t.detach().clone() for t in data]
        sources = tuple(self.source(t) for t in data)
        result = func(*args, **kwargs)
        name = cast("FunctionType", func).__name__
        results = list(_tensors(result)) or ([args[0]] if name == "__setitem__" else [])
        if not results:
            return result
        names = tuple(dict.fromkeys(itertools.chain(*(self._weights.get(id(t), ()) for t in arguments))))
        self._alive += [*arguments, *results]
        if data:
            for tensor in results:
                self._constants.discard(id(tensor))
                self._sources[id(tensor)] = len(self.operations)
            self.operations.append(
                Operation(
                    name=name,
                    module=self._modules[-1] if self._modules else "",
                    parameters=names,
                    inputs=tuple(copies),
                    sources=sources,
                    outputs=tuple(t.detach().clone() for t in results),
                )
            )
        else:
            for tensor in results:
                if names:  # a selection or another form of parameters is still parameters
                    self._weights.setdefault(id(tensor), names)
                elif id(tensor) not in self._sources and not tensor.dtype.is_floating_point:
                    self._constants.add(id(tensor))
        return result


def record(policy: nn.Module, inputs: Mapping[str, Tensor], call: Callable[[], Mapping[str, Tensor]]) -> Trace:
    """Run `call` and record it.

    Args:
        policy: whose parameters, buffers and modules are named.
        inputs: the tensors that `call` gives to the policy, by name.
        call: runs the policy and returns its outputs by name.
    """
    recorder = Recorder(policy, inputs)
    handles = []
    for name, module in policy.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: recorder.enter(name)))
            handles.append(module.register_forward_hook(lambda *_: recorder.leave(), always_call=True))
    try:
        with torch.no_grad(), recorder:
            outputs = dict(call())
    finally:
        for handle in handles:
            handle.remove()
    return Trace(
        operations=tuple(recorder.operations),
        outputs={name: tensor.detach().clone() for name, tensor in outputs.items()},
        output_sources={name: recorder.source(tensor) for name, tensor in outputs.items()},
    )


def renamed(trace: Trace, names: Mapping[str, str]) -> Trace:
    """The same trace with parameters under other names; those that are not in `names` keep theirs."""
    return replace(
        trace,
        operations=tuple(
            replace(o, parameters=tuple(names.get(name, name) for name in o.parameters)) for o in trace.operations
        ),
    )


def _tensors(value: object) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
