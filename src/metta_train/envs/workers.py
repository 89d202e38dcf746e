"""Environments in worker processes, over shared memory; both sides block, nobody spins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.config import EnvConfig
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.shared_block import SharedBlock
from metta_train.envs.vector import VectorEnv, VectorStep, WorkerError
from metta_train.envs.worker_messages import ResetEnvs, SliceDone, StepEnvs, WorkerFailed, WorkerPlan, WorkerReady
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord

STOP_SECONDS = 2.0  # for a worker to end by itself when its connection closes
KILL_SECONDS = 1.0  # after SIGTERM

# A worker finds the same code as the trainer, whose sys.path it gets.
BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from metta_train.envs.worker_process import main; main()"
)

# One thread per worker: the numeric libraries would otherwise start one per core in each.
THREAD_LIMITS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    envs: tuple[tuple[int, ...], ...]  # per slice


class WorkerVectorEnv(VectorEnv):
    """The workers share the envs of every slice, so that all of them work on whichever slice is in flight."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        config: EnvConfig,
        *,
        num_envs: int,
        num_workers: int,
        num_slices: int,
        seed: int,
        rank: int,
    ) -> None:
        super().__init__(spec, num_envs=num_envs, num_slices=num_slices)
        self._step_timeout = config.step_timeout
        self._awaited: list[set[int]] = [set() for _ in range(num_slices)]  # workers that owe an answer, per slice
        self._in_flight = [False] * num_slices
        self._finished: list[list[EpisodeRecord]] = [[] for _ in range(num_slices)]
        self._workers: list[_Worker] = []
        # Also runs when the vector env is dropped without `close`, and at the end of the interpreter.
        self._stop = weakref.finalize(self, _stop_workers, self._workers)

        block = SharedBlock(RowBuffers.num_bytes(spec, num_envs))
        self._buffers = RowBuffers.over(block.memory, spec, num_envs)
        try:
            for number, envs in enumerate(share_envs(num_envs, num_slices, num_workers)):
                self._workers.append(_start_worker(number, envs, block))
            for worker in self._workers:
                plan = WorkerPlan(config=config, num_envs=num_envs, envs=worker.envs, seed=seed, rank=rank)
                self._tell(worker, plan)
            self._await_ready(config.start_timeout)
        except BaseException:
            self.close()
            raise
        finally:
            block.close_descriptor()

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(worker.process.pid for worker in self._workers)

    def reset(self) -> NDArray[np.generic]:
        assert not any(self._in_flight), "reset while a slice is in flight"
        for index in range(self.num_slices):
            self._tell_slice(index, ResetEnvs(index))
        for index in range(self.num_slices):
            self._await_slice(index)
        return self._buffers.observations

    def send(self, index: int, actions: NDArray[np.int32] | NDArray[np.int64]) -> None:
        assert not self._in_flight[index], f"slice {index} was sent actions twice"
        self._in_flight[index] = True
        self._buffers.actions[self.slice_rows(index)] = actions
        self._tell_slice(index, StepEnvs(index))

    def receive(self, index: int) -> VectorStep:
        assert self._in_flight[index], f"slice {index} was not sent actions"
        self._await_slice(index)
        self._in_flight[index] = False
        episodes = sorted(self._finished[index], key=lambda episode: episode.env)
        self._finished[index] = []
        return self._buffers.step_of(self.slice_rows(index), episodes)

    def close(self) -> None:
        self._stop()

    def _tell_slice(self, index: int, message: ResetEnvs | StepEnvs) -> None:
        assert self._stop.alive, "the vector env is closed"
        for worker in self._workers:
            if worker.envs[index]:
                self._awaited[index].add(worker.number)
                self._tell(worker, message)

    def _tell(self, worker: _Worker, message: WorkerPlan | ResetEnvs | StepEnvs) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            # The worker is gone; what it said last, if anything, tells why.
            self._hear(worker, self._step_timeout)
            raise self._failure(worker, _how_it_ended(worker.process)) from None

    def _await_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for worker in self._workers:
            answer = self._hear(worker, deadline - time.monotonic(), "env.start_timeout", timeout)
            assert isinstance(answer, WorkerReady), answer
            if answer.spec != self.spec:
                raise self._failure(worker, "built another environment than the trainer; did its files change?")

    def _await_slice(self, index: int) -> None:
        deadline = time.monotonic() + self._step_timeout
        while awaited := self._awaited[index]:
            workers = {self._workers[number].connection: self._workers[number] for number in awaited}
            ready = wait(list(workers), max(deadline - time.monotonic(), 0.0))
            if not ready:
                worker = min(workers.values(), key=lambda worker: worker.number)
                raise self._timeout(worker, "env.step_timeout", self._step_timeout)
            for connection in ready:
                assert isinstance(connection, Connection)
                worker = workers[connection]
                answer = self._hear(worker, self._step_timeout)
                # Answers come in the order of the messages, perhaps for another slice in flight first.
                assert isinstance(answer, SliceDone), answer
                self._awaited[answer.slice_index].discard(worker.number)
                self._finished[answer.slice_index].extend(answer.episodes)

    def _hear(
        self, worker: _Worker, timeout: float, key: str = "env.step_timeout", limit: float | None = None
    ) -> WorkerReady | SliceDone:
        """The next answer of a worker."""
        try:
            if not worker.connection.poll(max(timeout, 0.0)):
                raise self._timeout(worker, key, timeout if limit is None else limit)
            answer = worker.connection.recv()
        except (EOFError, OSError):
            raise self._failure(worker, _how_it_ended(worker.process)) from None
        if isinstance(answer, WorkerFailed):
            raise self._failure(worker, f"failed:\n{answer.traceback}")
        return answer

    def _timeout(self, worker: _Worker, key: str, seconds: float) -> WorkerError:
        return self._failure(worker, f"did not answer within {key}={seconds:g} seconds; raise it if the env is slow")

    def _failure(self, worker: _Worker, what: str) -> WorkerError:
        self.close()
        return WorkerError(f"env worker {worker.number} (pid {worker.process.pid}) {what}")


def share_envs(num_envs: int, num_slices: int, num_workers: int) -> list[tuple[tuple[int, ...], ...]]:
    """For each worker, its envs of each slice; every slice is spread over as many workers as it has envs for."""
    size = num_envs // num_slices
    shares: list[list[tuple[int, ...]]] = [[] for _ in range(num_workers)]
    for index in range(num_slices):
        first = index * size
        for number, share in enumerate(shares):
            if size >= num_workers:
                envs = range(first + size * number // num_workers, first + size * (number + 1) // num_workers)
            else:
                envs = range(first + (number - first) % num_workers, first + size, num_workers)
            share.append(tuple(envs))
    return [tuple(share) for share in shares]


def _start_worker(number: int, envs: tuple[tuple[int, ...], ...], block: SharedBlock) -> _Worker:
    # Not multiprocessing's spawn: it imports the trainer's main module in the child, and with it often torch.
    ours, theirs = Pipe(duplex=True)
    with theirs:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", BOOTSTRAP, json.dumps(sys.path)),
                *(str(number) for number in (theirs.fileno(), block.descriptor, os.getpid())),
            ],
            pass_fds=(theirs.fileno(), block.descriptor),
            stdin=subprocess.DEVNULL,
            stdout=2,  # the trainer's stdout is for its results
            env={**os.environ, **THREAD_LIMITS},
            process_group=0,  # a Ctrl-C on the terminal reaches the trainer alone
        )
    return _Worker(number=number, process=process, connection=ours, envs=envs)


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    hint = "; perhaps the machine ran out of memory" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def _stop_workers(workers: Sequence[_Worker]) -> None:
    """Ends within STOP_SECONDS + 2 * KILL_SECONDS, whatever the workers do."""
    processes = [worker.process for worker in workers]
    for worker in workers:
        worker.connection.close()
    if _all_end(processes, STOP_SECONDS):
        return
    for process in processes:
        process.terminate()
    if _all_end(processes, KILL_SECONDS):
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
