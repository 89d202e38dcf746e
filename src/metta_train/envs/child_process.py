"""Processes that work for the trainer: started with the trainer's code, connected, and gone when the trainer is."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from metta_train.envs.shared_block import SharedBlock

STOP_SECONDS = 1.0  # for a child to end by itself when its connection closes
KILL_SECONDS = 0.5  # for a dying process to be gone
CHECK_SECONDS = 0.25  # between two looks at whether the trainer was asked to stop
SPIN_SECONDS = 0.003  # of looking for a message before sleeping until it comes
FROZEN_SECONDS = 1.0  # a wait that takes so much longer than asked was no wait

# A child finds the same code as the trainer, whose sys.path it gets. Its imports take seconds on a busy machine, so
# whose death it shares is settled before them.
BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from metta_train.envs.parent_death import die_with; die_with(int(sys.argv[2])); "
    "from {module} import main; main()"
)

# Requests to stop, which batch systems send to every process of a job. The trainer answers them and ends its children.
BATCH_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
STOP_SIGNALS = (*BATCH_SIGNALS, signal.SIGINT)

# One thread per child: the numeric libraries would otherwise start one per core in each.
THREAD_LIMITS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """A child's last words."""

    traceback: str
    memory_exhausted: str | None = None  # what was said when there was none left


class ChildFaultError(Exception):
    """What a child did instead of answering, e.g. "was killed by SIGKILL"."""

    def __init__(self, what: str, memory_exhausted: str | None = None) -> None:
        super().__init__(what)
        self.memory_exhausted = memory_exhausted


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A child and the trainer's end of the connection to it."""

    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def start(cls, module: str, blocks: Sequence[SharedBlock]) -> ChildProcess:
        """Run `main()` of a module, which finds its end of the connection and the memory by `inherited`.

        It starts with `STOP_SIGNALS` blocked, so that none of them ends it before it has decided what to do with them.
        """
        # Not multiprocessing's spawn: it imports the trainer's main module in the child, and with it often torch.
        ours, theirs = Pipe(duplex=True)
        with theirs:
            descriptors = (theirs.fileno(), *(block.descriptor for block in blocks))
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
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
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return cls(process, ours)

    def tell(self, message: object) -> None:
        """Send it. Raises ChildFaultError when the child is gone."""
        try:
            self.connection.send(message)
        except OSError:
            if self.connection.poll(KILL_SECONDS):
                self.hear()  # what it said last, if anything, tells why
            raise ChildFaultError(self._how_it_ended()) from None

    def hear(self) -> object:
        """The answer that waits in the connection. Raises ChildFaultError when it is the last one."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise ChildFaultError(self._how_it_ended()) from None
        if isinstance(answer, ChildFailed):
            raise ChildFaultError(f"failed:\n{answer.traceback}", answer.memory_exhausted)
        return answer

    def hear_within(self, seconds: float, check: Callable[[], None]) -> object:
        """The next answer; time in which this process was frozen does not count.

        Args:
            seconds: to wait for it.
            check: called a few times a second; what it raises ends the wait.

        Raises:
            ChildFaultError: the child is gone.
            TimeoutError: it did not answer.
        """
        if arrives_soon(self.connection):
            return self.hear()
        deadline = time.monotonic() + seconds
        while True:
            asked = time.monotonic()
            if self.connection.poll(min(max(deadline - asked, 0.0), CHECK_SECONDS)):
                return self.hear()
            check()
            deadline += frozen_since(asked)
            if time.monotonic() >= deadline:
                raise TimeoutError

    def _how_it_ended(self) -> str:
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


def frozen_since(asked: float) -> float:
    """Seconds that this process did not run, in a wait of at most CHECK_SECONDS: no child is to blame for them.

    Ctrl-Z, a paused container or a moving virtual machine freeze the children too.
    """
    passed = time.monotonic() - asked
    return passed if passed > CHECK_SECONDS + FROZEN_SECONDS else 0.0


def arrives_soon(connection: Connection) -> bool:
    """Look for a message, or for the end of whoever sends it, again and again for SPIN_SECONDS.

    For processes that meet many times a second: to wake up takes a tenth of a millisecond, and longer on a virtual CPU
    that has gone to sleep too (docs/benchmarks.md).
    """
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    deadline = time.monotonic() + SPIN_SECONDS
    while not poller.poll(0):
        if time.monotonic() >= deadline:
            return False
    return True


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
