"""Environments in worker processes, over shared memory; both sides block, nobody spins."""

from __future__ import annotations

import logging
import select
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metta_train.envs.child_process import CHECK_SECONDS, ChildFaultError, ChildProcess, frozen_since, stop_children
from metta_train.envs.config import EnvConfig
from metta_train.envs.episode_log import EpisodePoint
from metta_train.envs.logged_vector import LoggedVectorEnv
from metta_train.envs.row_buffers import RowBuffers
from metta_train.envs.shared_block import SharedBlock
from metta_train.envs.vector import WorkerError
from metta_train.envs.worker_messages import (
    LoseEnvs,
    ResetEnvs,
    RestoreEnvs,
    SliceDone,
    StepEnvs,
    WorkerPlan,
    WorkerReady,
)
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import EpisodeRecord

_Request = ResetEnvs | StepEnvs | RestoreEnvs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Worker:
    number: int
    child: ChildProcess
    envs: tuple[tuple[int, ...], ...]  # per slice


class WorkerVectorEnv(LoggedVectorEnv):
    """The workers share the envs of every slice, so that all of them work on whichever slice is in flight.

    A worker that dies is noticed at once, one that hangs at its timeout. `restart_budget` of them are started again:
    their envs open new episodes, and the old ones count as truncated. After that, a WorkerError.
    """

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
        check: Callable[[], None],
    ) -> None:
        self._block = SharedBlock(RowBuffers.num_bytes(spec, num_envs))
        super().__init__(
            spec, RowBuffers.over(self._block.memory, spec, num_envs), num_envs=num_envs, num_slices=num_slices
        )
        self._config = config
        self._seed = seed
        self._rank = rank
        self._check = check
        self._owed: list[dict[int, _Request]] = [{} for _ in range(num_slices)]  # by worker, per slice
        self._finished: list[list[EpisodeRecord]] = [[] for _ in range(num_slices)]
        self._workers: list[_Worker] = []
        # All connections, not only those that owe an answer: the end of one tells at once of a death.
        self._arrivals = select.poll()
        self._senders: dict[int, _Worker] = {}  # by the descriptor of their connection
        # Also runs when the vector env is dropped without `close`, and at the end of the interpreter.
        self._stop = weakref.finalize(self, _stop_workers, self._workers, self._block)
        try:
            for number, envs in enumerate(share_envs(num_envs, num_slices, num_workers)):
                self._workers.append(self._started_worker(number, envs))
            for worker in self._workers:
                self._tell(worker, self._plan(worker))
            deadline = time.monotonic() + config.start_timeout
            self._can_replay = all([self._await_ready(worker, deadline) for worker in self._workers])
        except _WorkerFaultError as fault:
            self.close()
            raise fault.error from None
        except BaseException:
            self.close()
            raise

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(worker.child.process.pid for worker in self._workers)

    def _reset(self) -> None:
        self._request_and_await([(index, ResetEnvs(index), None) for index in range(self.num_slices)])

    def _restore(self, points: Sequence[EpisodePoint]) -> None:
        requests: list[tuple[int, _Request, _Worker | None]] = []
        for worker in self._workers:
            for index, envs in enumerate(worker.envs):
                own = tuple(point for point in points if point.env in envs)
                if own:
                    requests.append((index, RestoreEnvs(index, own), worker))
        self._request_and_await(requests)

    def _send(self, index: int) -> None:
        self._request(index, StepEnvs(index))

    def _receive(self, index: int) -> Sequence[EpisodeRecord]:
        self._await_slice(index, self._config.step_timeout, "env.step_timeout")
        episodes = sorted(self._finished[index], key=lambda episode: episode.env)
        self._finished[index] = []
        return episodes

    def close(self) -> None:
        self._stop()

    def _request_and_await(self, requests: Sequence[tuple[int, _Request, _Worker | None]]) -> None:
        for index, request, worker in requests:
            self._request(index, request, worker)
        # Playing whole episodes again takes longer than a step.
        restores = any(isinstance(request, RestoreEnvs) for _, request, _ in requests)
        seconds, key = self._config.step_timeout, "env.step_timeout"
        if restores:
            seconds, key = max(seconds, self._config.start_timeout), "env.start_timeout"
        for index in range(self.num_slices):
            self._await_slice(index, seconds, key)

    def _request(self, index: int, request: _Request, only: _Worker | None = None) -> None:
        assert self._stop.alive, "the vector env is closed"
        for worker in self._workers if only is None else [only]:
            if worker.envs[index]:
                self._owed[index][worker.number] = request
                try:
                    self._tell(worker, request)
                except _WorkerFaultError as fault:
                    self._restart(fault)

    def _await_slice(self, index: int, seconds: float, key: str) -> None:
        deadline = time.monotonic() + seconds
        while owed := self._owed[index]:
            self._check()
            asked = time.monotonic()
            ready = self._arrivals.poll(1000 * min(max(deadline - asked, 0.0), CHECK_SECONDS))  # ms
            deadline += frozen_since(asked)
            try:
                if not ready and time.monotonic() >= deadline:
                    raise self._timeout(self._workers[min(owed)], key, seconds)
                for descriptor, _ in ready:
                    worker = self._senders[descriptor]
                    try:
                        answer = worker.child.hear()
                    except ChildFaultError as fault:
                        raise _WorkerFaultError(worker, str(fault)) from None
                    # Answers come in the order of the requests, perhaps for another slice in flight first.
                    assert isinstance(answer, SliceDone), answer
                    del self._owed[answer.slice_index][worker.number]
                    self._finished[answer.slice_index].extend(answer.episodes)
            except _WorkerFaultError as fault:
                self._restart(fault)
                deadline = time.monotonic() + seconds

    def _restart(self, fault: _WorkerFaultError) -> None:
        """Put a new worker in the place of a failed one, or give up."""
        if self.restarts >= self._config.restart_budget:
            self.close()
            spent = f"\nThe env.restart_budget={self.restarts} is spent." if self.restarts else ""
            raise WorkerError(f"{fault.error}{spent}") from None
        self.restarts += 1
        failed = fault.worker
        logger.warning(
            "%s\nA new one takes its place (%d of env.restart_budget=%d); the episodes of its envs are cut.",
            fault.error,
            self.restarts,
            self._config.restart_budget,
        )
        descriptor = failed.child.connection.fileno()
        self._arrivals.unregister(descriptor)
        del self._senders[descriptor]
        failed.child.put_down()
        worker = self._started_worker(failed.number, failed.envs)
        self._workers[failed.number] = worker
        lost = tuple((env, *self._log.present(env)) for envs in worker.envs for env in envs)
        try:
            self._tell(worker, self._plan(worker))
            self._await_ready(worker, time.monotonic() + self._config.start_timeout)
            self._tell(worker, LoseEnvs(lost))
            for owed in self._owed:
                if worker.number in owed:
                    self._tell(worker, owed[worker.number])
        except _WorkerFaultError as again:
            self._restart(again)

    def _started_worker(self, number: int, envs: tuple[tuple[int, ...], ...]) -> _Worker:
        child = ChildProcess.start("metta_train.envs.worker_process", [self._block])
        worker = _Worker(number=number, child=child, envs=envs)
        self._arrivals.register(child.connection.fileno(), select.POLLIN)
        self._senders[child.connection.fileno()] = worker
        return worker

    def _plan(self, worker: _Worker) -> WorkerPlan:
        return WorkerPlan(
            config=self._config, num_envs=self.num_envs, envs=worker.envs, seed=self._seed, rank=self._rank
        )

    def _tell(self, worker: _Worker, message: WorkerPlan | LoseEnvs | _Request) -> None:
        try:
            worker.child.tell(message)
        except ChildFaultError as fault:
            raise _WorkerFaultError(worker, str(fault)) from None

    def _await_ready(self, worker: _Worker, deadline: float) -> bool:
        """True when its environments replay."""
        try:
            answer = worker.child.hear_within(deadline - time.monotonic(), self._check)
        except TimeoutError:
            raise self._timeout(worker, "env.start_timeout", self._config.start_timeout) from None
        except ChildFaultError as fault:
            raise _WorkerFaultError(worker, str(fault)) from None
        assert isinstance(answer, WorkerReady), answer
        if answer.spec != self.spec:
            raise _WorkerFaultError(worker, "built another environment than the trainer; did its files change?")
        return answer.can_replay

    def _timeout(self, worker: _Worker, key: str, seconds: float) -> _WorkerFaultError:
        return _WorkerFaultError(
            worker, f"did not answer within {key}={seconds:g} seconds; raise it if the env is slow"
        )


class _WorkerFaultError(Exception):
    """What happened to which worker."""

    def __init__(self, worker: _Worker, what: str) -> None:
        self.worker = worker
        self.error = WorkerError(f"env worker {worker.number} (pid {worker.child.process.pid}) {what}")
        super().__init__(str(self.error))


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


def _stop_workers(workers: Sequence[_Worker], block: SharedBlock) -> None:
    block.close_descriptor()
    stop_children([worker.child for worker in workers])
