"""`python -m metta_train.cli.legacy_pickle FILE OUT`: the tensors of an old `.pt` file as safetensors.

The only reader of pickles, in a process of its own that has no network, no secrets, no children and bounded resources.
Nothing in the file is called: names of classes and functions lead to inert stand-ins, but for the few that make
tensors, and those are made here, within the bounds of their storages.

Prints one line of JSON: where in the file the tensors were, and which of them are buffers.
"""

from __future__ import annotations

import collections
import ctypes
import io
import json
import os
import pickle
import resource
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

MAX_FILE_BYTES = 4 << 30
SECONDS = 120  # of the processor
MEMORY_BYTES = 4 << 30  # beyond what is in use before the file is read
MAX_DEPTH = 60  # of objects in objects
MAX_OBJECTS = 200_000

_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_REFUSED = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.kill", "ctypes.", "pty.")
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_PLAIN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "complex"): complex,
}


class UnreadableError(Exception):
    """The file is not what it should be."""


class Inert:
    """Stands for an object of any class of the file; takes what pickle gives it and does nothing."""

    parts: list[object]

    def __new__(cls, *arguments: object, **named: object) -> Inert:  # pickle may leave out __init__
        inert = super().__new__(cls)
        inert.parts = [*arguments, *named.values()]
        return inert

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __call__(self, *arguments: object, **named: object) -> Inert:
        return Inert(*arguments, **named)

    def __setstate__(self, state: object) -> None:
        self.parts.append(state)

    def __setitem__(self, key: object, value: object) -> None:
        self.parts.append({str(key): value})

    def append(self, value: object) -> None:
        self.parts.append(value)

    def extend(self, values: list[object]) -> None:
        self.parts.extend(values)


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes behind tensors."""

    dtype: torch.dtype
    content: bytes


class StubUnpickler(pickle.Unpickler):
    """Builds a file's objects out of plain values, tensors and `Inert`."""

    def __init__(self, content: bytes, storage: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(content))
        self._storage = storage

    def find_class(self, module: str, name: str) -> object:
        plain = _PLAIN.get((module.replace("__builtin__", "builtins"), name))
        if plain is not None:
            return plain
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return rebuilt_tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return lambda tensor, *_: tensor
        if module == "copyreg" and name == "_reconstructor":
            return lambda *_: Inert()
        return type("Inert", (Inert,), {})

    def persistent_load(self, pid: object) -> Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int(_)):
                return Storage(dtype, self._storage(key))
        raise UnreadableError("it refers to something else than tensors")


def rebuilt_tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    """A copy of the described part of a storage; a description that leaves the storage is refused."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise UnreadableError("it holds a tensor without numbers")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and 0 <= number < 1 << 40 for number in numbers):
        raise UnreadableError("it holds a tensor of an impossible shape")
    assert isinstance(offset, int)
    flat = torch.frombuffer(bytearray(storage.content), dtype=storage.dtype) if storage.content else torch.empty(0)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 in size:
        return torch.empty(size, dtype=storage.dtype)
    if last >= flat.numel():
        raise UnreadableError("it holds a tensor that is larger than its storage")
    return flat.as_strided(size, stride, offset).clone()


@dataclass(frozen=True, slots=True)
class Found:
    """Tensors that belong together."""

    place: str
    tensors: dict[str, Tensor]
    buffers: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())


def read(path: Path) -> Found:
    """The largest group of named tensors of a file: those of a module, or a state dict.

    Raises:
        UnreadableError: no such file, not a torch file, or no tensors in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise UnreadableError("it is no file of torch.save")
            prefix = names[0].removesuffix("data.pkl")
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if sum(sizes.values()) > MAX_FILE_BYTES:
                raise UnreadableError(f"it unpacks to more than {MAX_FILE_BYTES >> 30} GiB")

            def storage(key: str) -> bytes:
                if f"{prefix}data/{key}" not in sizes:
                    raise UnreadableError(f"its storage {key!r} is missing")
                return archive.read(f"{prefix}data/{key}")

            root = StubUnpickler(archive.read(names[0]), storage).load()
    except (zipfile.BadZipFile, OSError) as error:
        raise UnreadableError(
            f"it is no file of torch.save of PyTorch 1.6 or newer ({str(error) or type(error).__name__})"
        ) from error
    groups = list(_groups(root))
    if not groups:
        raise UnreadableError("it holds no named tensors")
    return max(groups, key=lambda group: group.size)


def _groups(root: object) -> Iterator[Found]:
    waiting: list[tuple[str, object, int]] = [("", root, 0)]
    seen: set[int] = set()
    while waiting:
        place, value, depth = waiting.pop()
        if id(value) in seen or depth > MAX_DEPTH or len(seen) > MAX_OBJECTS:
            continue
        seen.add(id(value))
        group = _module(value) or _state_dict(value)
        if group is not None and group[0]:
            yield Found(place.lstrip(".") or "the file itself", *group)
            continue
        if isinstance(value, dict):
            inner = [(f"{place}.{key}", part) for key, part in value.items()]
        elif isinstance(value, list | tuple | set | frozenset):
            inner = [(place, part) for part in value]
        elif isinstance(value, Inert):
            inner = [(place, part) for part in value.parts]
        else:
            continue
        waiting.extend((name, part, depth + 1) for name, part in reversed(inner))


def _state_dict(value: object) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    if not isinstance(value, dict) or not value:
        return None
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()):
        return None
    return dict(value), ()


def _module(value: object, depth: int = 0) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """Tensors of a pickled `torch.nn.Module`, by their names in its state dict; names of buffers."""
    state = next((part for part in value.parts if isinstance(part, dict)), None) if isinstance(value, Inert) else None
    if state is None or "_parameters" not in state or "_modules" not in state or depth > MAX_DEPTH:
        return None
    tensors: dict[str, Tensor] = {}
    buffers: list[str] = []
    for kind in ("_parameters", "_buffers"):
        own = state.get(kind)
        for name, tensor in own.items() if isinstance(own, dict) else ():
            if isinstance(tensor, Tensor):
                tensors[str(name)] = tensor
                buffers += [str(name)] if kind == "_buffers" else []
    modules = state["_modules"]
    for name, module in modules.items() if isinstance(modules, dict) else ():
        inner = _module(module, depth + 1)
        if inner is not None:
            tensors |= {f"{name}.{key}": tensor for key, tensor in inner[0].items()}
            buffers += [f"{name}.{key}" for key in inner[1]]
    return tensors, tuple(buffers)


def confine(out: Path) -> None:
    """Give up what a reader of tensors does not need; where the system does not allow that, the rest still holds."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)  # a network with nothing in it; not everywhere permitted
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, in_use + MEMORY_BYTES),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
    ):
        with suppress(ValueError, OSError):  # a lower limit stands already
            resource.setrlimit(limit, (value, value))

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event.startswith(_REFUSED) or (writes and os.fspath(arguments[0]) != str(out)):
            raise PermissionError(f"{event} is not allowed while an old file is read")

    sys.addaudithook(refuse)


def main() -> int:
    """Run the process; what is wrong with the file is part of the answer."""
    path, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    confine(out)
    try:
        found = read(path)
    except UnreadableError as error:
        print(json.dumps({"error": str(error)}))
        return 0
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError) as error:
        # What a crafted or torn pickle makes of the reader; it has nothing to do with us.
        print(json.dumps({"error": f"its pickle is damaged ({type(error).__name__})"}))
        return 0
    out.write_bytes(save({name: tensor.contiguous() for name, tensor in found.tensors.items()}))
    print(json.dumps({"place": found.place, "buffers": list(found.buffers)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
