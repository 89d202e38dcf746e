"""A CUDA device for machines without one: tensors that say they are on it, and compute on the CPU.

What a GPU refuses is refused here: numbers of two devices in one operation, NumPy's look into its memory, an operation
that waits while a CUDA graph is captured, one that has no deterministic kernel where those are asked for. What waits
for the device is noted with the file of the code that asked. What it cannot tell: how fast, how precise, and whether
kernels exist.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

import metta_train

DEVICE = "cuda:0"  # torch asks a driver which one "cuda" is
NAME = "a pretended GPU"
MEMORY = 8 << 30

_aten = torch.ops.aten
_DEVICE = torch.device(DEVICE)
_COPIES = (_aten.to, _aten._to_copy, _aten.copy_)
_READS = (_aten._local_scalar_dense, _aten.item, _aten.is_nonzero, _aten.equal, _aten.nonzero, _aten.masked_select)
_INDEXING = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
# Of those that torch.use_deterministic_algorithms names, what a policy might use.
_NOT_DETERMINISTIC = ("kthvalue", "median.dim", "put_", "histc", "bincount", "_ctc_loss", "nll_loss2d_forward")
_NOT_DETERMINISTIC_FOR_FLOATS = ("cumsum", "cumsum_")
# What autocast does on CUDA, of the functions that a policy uses
# (https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior).
_IN_BFLOAT16 = {"linear", "conv2d", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "lstm", "lstm_cell"}
_IN_FLOAT32 = {"exp", "log", "log_softmax", "softmax", "pow", "norm", "sum", "prod", "cumsum"}
_SOURCE = str(Path(metta_train.__file__).parent)


@dataclass
class PretendedDevice:
    """What happened on it.

    Attributes:
        waits: `(file name, operation)` of everything for which Python waited until the device had caught up.
        graphs: that were captured.
    """

    waits: list[tuple[str, str]] = field(default_factory=list)
    graphs: list[PretendedGraph] = field(default_factory=list)
    capturing: PretendedGraph | None = None

    def note_wait(self, operation: str) -> None:
        if self.capturing is not None:
            raise RuntimeError(f"{operation}: operation not permitted when stream is capturing")
        frame = sys._getframe()
        while frame.f_back is not None and not frame.f_code.co_filename.startswith(_SOURCE):
            frame = frame.f_back
        self.waits.append((Path(frame.f_code.co_filename).name, operation))


_device: PretendedDevice | None = None  # the present one


def _present() -> PretendedDevice:
    assert _device is not None, "outside of pretended_cuda()"
    return _device


class OnDevice(Tensor):
    """Says that it is on the device; to torch's own checks it is on "meta", which asks no driver.

    Args:
        numbers: on the CPU.
    """

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnDevice:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device("meta"),
        )
        tensor.numbers = numbers
        return tensor

    @property
    def device(self) -> torch.device:
        return _DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    def tolist(self) -> Any:
        _present().note_wait("tolist")
        return self.numbers.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")

    def __setitem__(self, index: Any, value: Any) -> None:
        # torch would make a number of the meta device of it, that is none.
        number = value if isinstance(value, Tensor) else OnDevice(torch.tensor(value, dtype=self.dtype))
        super().__setitem__(index, number)

    def __repr__(self) -> str:
        return f"OnDevice({self.numbers})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_autocast_enabled("cuda"):  # whose own casts pass by a tensor of the meta device
            name = getattr(func, "__name__", "")
            dtype = torch.bfloat16 if name in _IN_BFLOAT16 else torch.float32 if name in _IN_FLOAT32 else None
            if dtype is not None:
                args, kwargs = _map(lambda leaf: _cast(leaf, dtype), (args, kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: OpOverload, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Everything(TorchDispatchMode):
    """Sees what has no tensor of the device among its arguments: what makes one."""

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@dataclass
class PretendedGraph:
    """What torch.cuda.CUDAGraph does: plays operations again in the memory in which they were captured."""

    operations: list[tuple[Callable[[], Any], list[Tensor]]] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)
    plays: int = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def add(self, func: OpOverload, args: Any, kwargs: Any, results: list[Tensor]) -> None:
        def play() -> Any:
            return func(*args, **kwargs)

        self.operations.append((play, results))

    def replay(self) -> None:
        self.plays += 1
        with torch.no_grad():
            for play, results in self.operations:
                for result, again in zip(results, _tensors(play()), strict=True):
                    if result.untyped_storage().data_ptr() != again.untyped_storage().data_ptr():
                        result.copy_(again)


class _Generator(torch.Generator):
    """Draws as on the CPU, wherever it is: torch's own asks a driver."""

    def __new__(cls, device: object = "cpu") -> _Generator:
        return super().__new__(cls)


class _Stream:
    def wait_stream(self, other: _Stream) -> None:
        assert isinstance(other, _Stream)


@contextmanager
def _capture(graph: PretendedGraph) -> Iterator[None]:
    device = _present()
    device.graphs.append(graph)
    device.capturing = graph
    states = [generator.get_state() for generator in graph.generators]
    try:
        yield
    finally:
        device.capturing = None
        for generator, state in zip(graph.generators, states, strict=True):  # a capture draws nothing
            generator.set_state(state)


@contextmanager
def pretended_cuda() -> Iterator[PretendedDevice]:
    """Inside, `cuda:0` exists, for this thread and for everything that has a tensor of it."""
    replaced = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "is_current_stream_capturing": lambda: _present().capturing is not None,
        "synchronize": lambda device=None: _present().note_wait("synchronize"),
        "Stream": _Stream,
        "current_stream": lambda device=None: _Stream(),
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": PretendedGraph,
        "graph": _capture,
    }
    device = PretendedDevice()
    with ExitStack() as stack:
        stack.enter_context(patch.object(sys.modules[__name__], "_device", device))
        for name, value in replaced.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) goes through what is dispatched
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        stack.enter_context(_Everything())
        yield device


def _run(func: OpOverload, args: Any, kwargs: Any) -> Any:
    """Any operation of torch."""
    leaves = _leaves((args, kwargs))
    ours = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    of_cpu = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, OnDevice)]
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    packet = func.overloadpacket
    if packet in (_aten.pin_memory, _aten._pin_memory):
        return args[0].clone()
    if packet is _aten.copy_:
        to_device = isinstance(args[0], OnDevice)
    elif func is _aten.to.other:
        to_device = isinstance(args[1], OnDevice)
    else:
        to_device = _is_ours(devices[0]) if devices else bool(ours)
    if packet in _COPIES:
        _look_at_copy(func, args, kwargs, to_device)
    elif ours:
        _look_at_operation(func, args, of_cpu)

    inner_args, inner_kwargs = _map(_inner, (args, kwargs))
    found = func(*inner_args, **inner_kwargs)
    if not to_device:
        return found
    graph = _present().capturing
    if graph is not None:
        graph.add(func, inner_args, inner_kwargs, _tensors(found))
    known = {id(tensor.numbers): tensor for tensor in ours}
    # A view of a tensor that is no inference tensor is none either.
    view = bool(ours) and any(returned.alias_info is not None for returned in func._schema.returns)
    with torch.inference_mode(ours[0].is_inference()) if view else nullcontext():
        return _map(lambda leaf: _outer(leaf, known), found)


def _look_at_copy(func: OpOverload, args: Any, kwargs: Any, to_device: bool) -> None:
    source = args[1] if func.overloadpacket is _aten.copy_ else args[0]
    from_device = isinstance(source, OnDevice)
    if from_device == to_device:
        return
    names = [argument.name for argument in func._schema.arguments]
    if from_device or not {**dict(zip(names, args, strict=False)), **kwargs}.get("non_blocking", False):
        _present().note_wait("download" if from_device else "upload")


def _look_at_operation(func: OpOverload, args: Any, of_cpu: Sequence[Tensor]) -> None:
    packet = func.overloadpacket
    if packet in _READS:
        _present().note_wait(packet.__name__)
    if packet in _INDEXING:
        indices = [leaf for leaf in _leaves(args[1]) if isinstance(leaf, Tensor)]
        if any(index.dtype in (torch.bool, torch.uint8) or not isinstance(index, OnDevice) for index in indices):
            _present().note_wait(packet.__name__)
    elif any(tensor.dim() for tensor in of_cpu):  # single numbers may join
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but got {DEVICE} and cpu")
    if torch.are_deterministic_algorithms_enabled():
        name = str(func).removeprefix("aten.").removesuffix(".default")
        floats = name in _NOT_DETERMINISTIC_FOR_FLOATS and args[0].is_floating_point()
        if floats or name in _NOT_DETERMINISTIC:
            raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")


def _cast(leaf: object, dtype: torch.dtype) -> object:
    if isinstance(leaf, OnDevice) and leaf.dtype in (torch.float32, torch.bfloat16):
        return leaf.to(dtype)
    return leaf


def _is_ours(device: torch.device) -> bool:
    return device.type in ("cuda", "meta")


def _inner(leaf: object) -> object:
    if isinstance(leaf, OnDevice):
        return leaf.numbers
    return torch.device("cpu") if isinstance(leaf, torch.device) and _is_ours(leaf) else leaf


def _outer(leaf: object, known: dict[int, OnDevice]) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else OnDevice(leaf)


def _tensors(found: object) -> list[Tensor]:
    return [leaf for leaf in _leaves(found) if isinstance(leaf, Tensor)]


# As torch.utils._pytree does, which takes most of the time of such a test.


def _leaves(tree: object) -> list[object]:
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in _leaves(part)]
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in _leaves(part)]
    return [tree]


def _map(change: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, (list, tuple)):
        parts = [_map(change, part) for part in tree]
        return parts if isinstance(tree, list) else tuple(parts)
    if isinstance(tree, dict):
        return {key: _map(change, part) for key, part in tree.items()}
    return change(tree)
