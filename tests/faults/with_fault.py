"""`python -m tests.faults.with_fault FAULT ARGUMENTS...`: the command line with one thing broken on purpose.

FAULT is `<what>:<number>`:
    die-at:N         SIGKILL before operation N of those that change the folder of checkpoints, the first being 0
    die-before:TEXT  the same before the first operation that TEXT describes: `rename .tmp-step-000000000384-*`
    term-before:TEXT SIGTERM to itself at that moment
    term-at-step:N   SIGTERM to itself before the N-th gradient step
    full-disk:N      the N-th checkpoint and all after it find no room; `full-disk:N-M` recovers after the M-th
    out-of-memory:N  the N-th gradient step runs out of memory
    bug:N            the N-th gradient step raises
    nan-gradient:N   the N-th gradient is NaN
    spike:N          the rewards of the N-th rollout are 10,000 times as large
    clock:SECONDS    time.time jumps by so much in the middle
    record:FOLDER    nothing breaks; the order of all changes on the disk goes into FOLDER (recorded_disk.py)
"""

from __future__ import annotations

import errno
import fnmatch
import io
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.recorded_disk import Recorder


def main() -> int:
    install(sys.argv[1])
    from metta_train.cli.train import main as train

    return train(sys.argv[2:])


def install(fault: str) -> None:
    """Break the thing in this process."""
    what, _, number = fault.partition(":")
    FAULTS[what](number)


def die_at(number: str) -> None:
    left = itertools.count(int(number), -1)
    _signal_when(lambda operation: next(left) == 0, signal.SIGKILL)


def die_before(pattern: str) -> None:
    _signal_when(lambda operation: fnmatch.fnmatch(operation, pattern), signal.SIGKILL)


def term_before(pattern: str) -> None:
    found = itertools.count()
    _signal_when(lambda operation: fnmatch.fnmatch(operation, pattern) and next(found) == 0, signal.SIGTERM)


def term_at_step(number: str) -> None:
    at_step(number, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _signal_when(condition: Callable[[str], bool], number: signal.Signals) -> None:
    """Looks at each operation that changes the folder of checkpoints, e.g. `rename .tmp-step-000000000384-...`."""

    def dying(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            path = _path_of(arguments[0], options.get("dir_fd"))
            reads = name == "open" and set("wxa+").isdisjoint(str(arguments[1:2]))
            _, found, below = f"{path}/".partition("/checkpoints/")
            if found and not reads:
                told = f"{name} {below.rstrip('/') or 'checkpoints'}"
                if condition(told):
                    os.write(2, f"killed before: {told}\n".encode())
                    os.kill(os.getpid(), number)
            return original(*arguments, **options)

        return operation

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
        setattr(os, name, dying(name, getattr(os, name)))
    io.open = dying("open", io.open)


def _path_of(target: int | str | os.PathLike[str], folder: int | None) -> str:
    if isinstance(target, int):
        return os.readlink(f"/proc/self/fd/{target}")
    path = os.fspath(target)
    return path if folder is None else f"{os.readlink(f'/proc/self/fd/{folder}')}/{path}"


def full_disk(numbers: str) -> None:
    first, _, last = numbers.partition("-")
    from metta_train.training import checkpoints

    count = itertools.count(1)
    write = checkpoints._write_folder

    def refuse(temporary: Path, contents: Any) -> None:
        number = next(count)
        if number >= int(first) and not (last and number > int(last)):
            temporary.mkdir()
            (temporary / "model.safetensors").write_bytes(b"torn")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(temporary, contents)

    checkpoints._write_folder = refuse


def at_step(number: str, action: Callable[[], None]) -> None:
    from metta_train.training.learners.network_pass import OwnPass

    left = itertools.count(int(number), -1)
    forward = OwnPass.forward

    def forward_or_break(self: OwnPass, inputs: Any) -> Any:
        if next(left) == 1:
            action()
        return forward(self, inputs)

    OwnPass.forward = forward_or_break


def out_of_memory(number: str) -> None:
    def action() -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    at_step(number, action)


def bug(number: str) -> None:
    def action() -> None:
        raise IndexError("a bug of ours")

    at_step(number, action)


def nan_gradient(number: str) -> None:
    from metta_train.training.learners.network_pass import OwnPass

    left = itertools.count(int(number), -1)
    backward = OwnPass.backward

    def backward_and_spoil(self: OwnPass, grads: Any, into: Any) -> Any:
        playing = backward(self, grads, into)
        if next(left) == 1:
            into.flat.fill_(float("nan"))
        return playing

    OwnPass.backward = backward_and_spoil


def spike(number: str) -> None:
    from metta_train.training.rollout import Rollout, RolloutCollector

    left = itertools.count(int(number), -1)
    collect = RolloutCollector.collect

    def collect_too_much(self: RolloutCollector) -> Rollout:
        rollout = collect(self)
        if next(left) == 1:
            rollout.segments.rewards.mul_(1e4)
        return rollout

    RolloutCollector.collect = collect_too_much


def clock(seconds: str) -> None:
    real, start = time.time, time.monotonic()

    def jumping() -> float:
        return real() + (float(seconds) if time.monotonic() - start > 4.0 else 0.0)

    time.time = jumping


def record(folder: str) -> None:
    root = next(argument.removeprefix("data_dir=") for argument in sys.argv if argument.startswith("data_dir="))
    recorder = Recorder(Path(folder), Path(root))
    from metta_train.training.checkpoint_writer import CheckpointWriter

    write = CheckpointWriter.write

    def write_and_tell(self: CheckpointWriter, save: Callable[[Path], Path], *, last: bool) -> Path | None:
        saved = write(self, save, last=last)
        recorder.look()
        if saved is not None:
            recorder.tell("saved", name=saved.name)
        return saved

    CheckpointWriter.write = write_and_tell
    recorder.install()


FAULTS: dict[str, Callable[[str], None]] = {
    "die-at": die_at,
    "die-before": die_before,
    "term-before": term_before,
    "term-at-step": term_at_step,
    "full-disk": full_disk,
    "out-of-memory": out_of_memory,
    "bug": bug,
    "nan-gradient": nan_gradient,
    "spike": spike,
    "clock": clock,
    "record": record,
}

if __name__ == "__main__":
    sys.exit(main())
