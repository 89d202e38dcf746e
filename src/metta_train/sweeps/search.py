"""The search: proposes trials, runs some at a time, stops the hopeless ones, remembers everything."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from metta_train.reporting.storage import storage_errors
from metta_train.sweeps.config import SweepConfig
from metta_train.sweeps.devices import DeviceShare
from metta_train.sweeps.objective import why_none
from metta_train.sweeps.search_method import SearchMethod
from metta_train.sweeps.trial import Trial, TrialLog
from metta_train.sweeps.trial_process import TrialProcess
from metta_train.training.run_lock import RunLockedError

PREEMPTED = 75  # exit code of a run that saved and ended because it was asked to
HOPELESS_SEARCH = 3  # trials that fail before any succeeds: the reason is not their values
POLL = 0.2  # seconds
LOGS = ".logs"


@dataclass(frozen=True, slots=True)
class SearchFolder:
    """Where the files of a search lie: the trials' runs beside `search.yaml`, `trials.jsonl` and `study.db`."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "search.yaml"

    @property
    def trials(self) -> Path:
        return self.path / "trials.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One search at a time. Raises RunLockedError, StorageError."""
        with storage_errors("lock", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "search.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunLockedError(f"{self.path.name} is being searched by another process") from None
            yield
        finally:
            os.close(descriptor)


class Search:
    """Runs trials until there are enough.

    Args:
        config: of the search.
        method: already told of the trials in `log`.
        folder: of the search.
        log: of its trials.
        command: of a trial.
        look_every: agent steps between two comparisons of a trial with the others.
        told: hears about every trial that begins, goes on, or ends.
        devices: GPUs; with several, each running trial sees one of them.
    """

    def __init__(
        self,
        config: SweepConfig,
        method: SearchMethod,
        folder: SearchFolder,
        log: TrialLog,
        command: Callable[[Trial], Sequence[str]],
        *,
        look_every: int,
        told: Callable[[Trial], None],
        devices: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._method = method
        self._folder = folder
        self._log = log
        self._command = command
        self._look_every = look_every
        self._told = told
        self._devices = DeviceShare(devices)
        self._running: dict[int, TrialProcess] = {}
        self._looks: dict[int, int] = {}
        self._hopeless: set[int] = set()
        self.trials = log.read()
        self.stopping = False

    @property
    def gives_up(self) -> bool:
        """The trials fail, all of them: whatever is wrong, another trial will not mend it."""
        ended = [trial for trial in self.trials.values() if trial.ended]
        return len(ended) >= HOPELESS_SEARCH and all(trial.state == "failed" for trial in ended)

    def stop(self) -> None:
        """Ask the running trials to save, and begin no other; safe to call from a signal handler."""
        self.stopping = True

    def run(self, jobs: int) -> None:
        """Until there are `config.trials` trials, or the search is asked to stop.

        Args:
            jobs: trials that run at a time.
        """
        waiting = [trial for trial in self.trials.values() if not trial.ended]
        try:
            while True:
                while len(self._running) < jobs and not self.stopping and not self.gives_up:
                    if waiting:
                        trial = replace(waiting.pop(0), state="running")
                        self._method.go_on(trial)
                    elif len(self.trials) < self._config.trials:
                        number = len(self.trials)
                        trial = Trial(number, self._method.propose(number))
                    else:
                        break
                    self._begin(trial)
                if not self._running:
                    return
                time.sleep(POLL)
                for number in list(self._running):
                    self._watch(self.trials[number])
        finally:
            for process in self._running.values():  # left by an exception; they save and end by themselves
                process.stop()

    def _begin(self, trial: Trial) -> None:
        self._remember(trial)
        run = self._folder.path / trial.name
        log = self._folder.path / LOGS / f"{trial.name}.log"
        self._running[trial.number] = TrialProcess(
            self._command(trial), log, run / "metrics.jsonl", self._devices.take(trial.number)
        )
        self._looks[trial.number] = 0

    def _watch(self, trial: Trial) -> None:
        process = self._running[trial.number]
        if self.stopping:
            process.stop()
        code = process.poll()
        process.tail.update()
        if code is not None:
            del self._running[trial.number]
            self._devices.give_back(trial.number)
            self._end(trial, process, code)
        elif not process.asked_to_stop and self._is_hopeless(trial, process):
            self._hopeless.add(trial.number)
            process.stop()

    def _is_hopeless(self, trial: Trial, process: TrialProcess) -> bool:
        done = self._looks[trial.number]
        # At the last look the end is there, or nearly.
        due = min(process.tail.agent_step // self._look_every, self._config.optuna.looks - 1)
        if due <= done:
            return False
        self._looks[trial.number] = due
        curve = process.tail.curve(self._config.metric)
        for look in range(done + 1, due + 1):  # an epoch may pass several
            score = curve.until(look * self._look_every).last_tenth
            if score is not None and self._method.is_hopeless(trial, look, score):
                return True
        return False

    def _end(self, trial: Trial, process: TrialProcess, code: int) -> None:
        tail = process.tail
        score = tail.curve(self._config.metric).last_tenth
        ended = replace(trial, code=code, agent_step=tail.agent_step, seconds=tail.seconds)
        if code == 0 and score is not None:
            ended = replace(ended, state="done", score=score)
        elif code == 0:
            ended = replace(ended, state="failed", code=1, reason=self._no_score(process))
        elif trial.number in self._hopeless:
            ended = replace(ended, state="pruned", score=score, code=0)
        elif code == PREEMPTED or (process.asked_to_stop and code < 0):  # saved, or ended before it could
            self._remember(replace(ended, state="stopped"))
            return
        else:
            ended = replace(ended, state="failed", reason=process.reason(code))
        self._remember(ended)
        self._method.tell(ended)

    def _no_score(self, process: TrialProcess) -> str:
        return why_none({name for epoch in process.tail.epochs for name in epoch}, self._config.metric)

    def _remember(self, trial: Trial) -> None:
        self._log.write(trial)
        self.trials[trial.number] = trial
        self._told(trial)
