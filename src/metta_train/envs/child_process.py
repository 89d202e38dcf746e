"""Processes that work for the trainer: started with the trainer's code, connected, and gone when the trainer is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from metta_train.envs.shared_block import SharedBlock

STOP_SECONDS = 1.0  # for a child to end by itself when its connection closes
KILL_SECONDS = 0.5  # for a dying process to be gone

# A child finds the same code as the trainer, whose sys.path it gets. Its imports take seconds on a busy machine, so
# whose death it shares is settled before them.
BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from metta_train.envs.parent_death import die_with; die_with(int(sys.argv[2])); "
    "from {module} import main; main()"
)

# One thread per child: the numeric libraries would otherwise start one per core in each.
THREAD_LIMITS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A child and the trainer's end of the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def start(cls, module: str, blocks: Sequence[SharedBlock]) -> ChildProcess:
        """Run `main()` of a module, which finds its end of the connection and the memory by `inherited`."""
        # Not multiprocessing's spawn: it imports the trainer's main module in the child, and with it often torch.
        ours, theirs = Pipe(duplex=True)
        with theirs:
            descriptors = (theirs.fileno(), *(block.descriptor for block in blocks))
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", BOOTSTRAP.format(module=module), json.dumps(sys.path)),
                    *(str(number) for number in (os.getpid(), *descriptors)),
                ],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=2,  # the trainer's stdout is for its results
                env={**os.environ, **THREAD_LIMITS},
                process_group=0,  # a Ctrl-C on the terminal reaches the trainer alone
            )
        return cls(process, ours)

    def how_it_ended(self) -> str:
        """What to say of a child that does not answer any more."""
        try:
            code = self.process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        hint = "; perhaps the machine ran out of memory" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"

    def put_down(self) -> None:
        """For a child that failed: kill it, and wait as long as that takes."""
        self.connection.close()
        self.process.kill()
        _all_end([self.process], KILL_SECONDS)


def inherited() -> tuple[int, list[int]]:
    """In the child: the descriptors of its connection and of the memory blocks."""
    connection, *blocks = (int(argument) for argument in sys.argv[3:])
    return connection, blocks


def stop_children(children: Sequence[ChildProcess]) -> None:
    """Ends within STOP_SECONDS + KILL_SECONDS, whatever the children do: they have nothing to save."""
    processes = [child.process for child in children]
    for child in children:
        child.connection.close()
    if _all_end(processes, STOP_SECONDS):
        return
    for process in processes:
        process.kill()
    _all_end(processes, KILL_SECONDS)


def _all_end(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    try:
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        return False
    return True
