"""`python -m tests.faults.with_fault FAULT ARGUMENTS...`: the command line with one thing broken on purpose.

FAULT is `<what>:<number>`:
    die-at:N        SIGKILL before the N-th operation on the disk that a save makes
    full-disk:N     the N-th checkpoint and all after it find no room; `full-disk:N-M` recovers after the M-th
    out-of-memory:N the N-th gradient step runs out of memory
    bug:N           the N-th gradient step raises
    nan-gradient:N  the N-th gradient is NaN
    spike:N         the rewards of the N-th rollout are 10,000 times as large
    clock:SECONDS   time.time jumps by so much in the middle
    record:FOLDER   nothing breaks; the order of all changes on the disk goes into FOLDER (recorded_disk.py)
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.recorded_disk import Recorder


def main() -> int:
    what, _, number = sys.argv[1].partition(":")
    FAULTS[what](number)
    from metta_train.cli.train import main as train

    return train(sys.argv[2:])


def die_at(number: str) -> None:
    """Counts what changes the disk inside the folder of checkpoints."""
    left = itertools.count(int(number), -1)

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            if ("checkpoints" in f"{arguments[0]}" or original is os.fsync) and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return operation

    os.fsync = dying(os.fsync)
    shutil.rmtree = dying(shutil.rmtree)
    for name in ("mkdir", "rename", "open"):
        setattr(Path, name, dying(getattr(Path, name)))


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
    from metta_train.training.update import PolicyUpdater

    left = itertools.count(int(number), -1)
    evaluate = PolicyUpdater._evaluate

    def evaluate_or_break(self: PolicyUpdater, segments: Any) -> Any:
        if next(left) == 1:
            action()
        return evaluate(self, segments)

    PolicyUpdater._evaluate = evaluate_or_break


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
    import torch

    left = itertools.count(int(number), -1)
    clip = torch.nn.utils.clip_grad_norm_

    def clip_and_spoil(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
        norm = clip(parameters, limit)
        if next(left) == 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
            return norm * float("nan")
        return norm

    torch.nn.utils.clip_grad_norm_ = clip_and_spoil


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
