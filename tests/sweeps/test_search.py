from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.fakes.trial_program as trial_program
from metta_train.specs.config_errors import ConfigError
from metta_train.sweeps import trial_process
from metta_train.sweeps.config import SweepConfig, Values
from metta_train.sweeps.search import Search, SearchFolder
from metta_train.sweeps.search_method import SearchMethod
from metta_train.sweeps.trial import Trial, TrialLog
from metta_train.training.run_lock import RunLockedError

PROGRAM = str(Path(trial_program.__file__))
SPACE = {"parameters": {"score": {"type": "uniform", "low": 0.0, "high": 9.0}}}


class Counting(SearchMethod):
    """Proposes 0, 1, 2, ...; hopeless are scores of 5 and above."""

    def __init__(self) -> None:
        self.told: list[Trial] = []
        self.looked: list[tuple[int, int, float]] = []
        self.continued: list[int] = []

    def propose(self, number: int) -> Values:
        return {"score": float(number)}

    def go_on(self, trial: Trial) -> None:
        self.continued.append(trial.number)

    def is_hopeless(self, trial: Trial, look: int, score: float) -> bool:
        self.looked.append((trial.number, look, score))
        return score >= 5.0

    def tell(self, trial: Trial) -> None:
        self.told.append(trial)


def searching(folder: Path, how: Callable[[Trial], str], trials: int, method: SearchMethod, epochs: int = 10) -> Search:
    def command(trial: Trial) -> list[str]:
        run = folder / trial.name
        return [sys.executable, PROGRAM, str(run), str(trial.values["score"]), str(epochs), how(trial)]

    config = SweepConfig.model_validate({**SPACE, "trials": trials, "optuna": {"looks": 20}})
    log = TrialLog(folder / "trials.jsonl")
    return Search(config, method, SearchFolder(folder), log, command, look_every=10, told=lambda trial: None)


def test_trials_end_in_their_own_ways_and_the_search_goes_on(tmp_path: Path) -> None:
    method = Counting()
    ways = {0: "done", 1: "fail", 2: "silent", 3: "done", 4: "done", 5: "endless", 6: "done"}
    search = searching(tmp_path, lambda trial: ways[trial.number], 7, method)
    search.run(jobs=3)
    trials = search.trials
    assert {number: trial.state for number, trial in trials.items()} == {
        0: "done",
        1: "failed",
        2: "failed",
        3: "done",
        4: "done",
        5: "pruned",
        6: "done",
    }
    assert (trials[3].score, trials[3].seconds, trials[3].agent_step) == (3.0, 20.0, 100)
    assert (trials[1].code, trials[1].reason) == (2, "trainer.batch_size=7: needs another number")
    assert (
        trials[2].reason == "no episode ended, so there is no overview/reward: more trainer.total_timesteps would tell"
    )
    assert trials[5].score == 5.0
    assert [look for number, look, _ in method.looked if number == 5] == [1]  # the first was enough
    assert [look for number, look, _ in method.looked if number == 3] in ([], list(range(1, 11)))
    assert sorted(trial.number for trial in method.told) == list(range(7))
    assert TrialLog(tmp_path / "trials.jsonl").read() == trials


def test_a_stopped_search_goes_on_with_its_trials(tmp_path: Path) -> None:
    first = searching(tmp_path, lambda trial: "endless", 3, Counting(), epochs=0)
    timer = threading.Timer(1.0, first.stop)
    timer.start()
    first.run(jobs=2)
    assert [trial.state for trial in first.trials.values()] == ["stopped", "stopped"]
    method = Counting()
    second = searching(tmp_path, lambda trial: "done", 3, method)
    second.run(jobs=1)
    assert method.continued == [0, 1]
    assert [(trial.state, trial.score) for trial in second.trials.values()] == [("done", n) for n in (0.0, 1.0, 2.0)]
    third = searching(tmp_path, lambda trial: "fail", 3, Counting())
    third.run(jobs=1)  # there are enough
    assert third.trials == second.trials


def test_a_search_whose_trials_all_fail_gives_up(tmp_path: Path) -> None:
    search = searching(tmp_path, lambda trial: "fail", 50, Counting())
    search.run(jobs=1)
    assert search.gives_up and len(search.trials) == 3


def test_a_trial_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_process, "STOP_PATIENCE", 0.3)
    search = searching(tmp_path, lambda trial: "deaf" if trial.number == 0 else "done", 1, Counting(), epochs=0)
    timer = threading.Timer(1.0, search.stop)
    timer.start()
    started = time.monotonic()
    search.run(jobs=1)
    assert time.monotonic() - started < 20
    assert search.trials[0].state == "stopped"


def test_one_search_at_a_time(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    with folder.locked(), pytest.raises(RunLockedError, match="is being searched by another process"):
        folder.locked().__enter__()
    with folder.locked():
        pass


def test_the_log_survives_a_torn_line_and_nothing_else(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "trials.jsonl")
    assert log.read() == {}
    first, second = Trial(0, {"a": 1, "b": "x", "c": True, "d": 0.5}), Trial(1)
    log.write(first)
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"number": 1, "val')
    assert log.read() == {0: first}
    log.write(second)
    assert log.read() == {0: first, 1: second}
    (tmp_path / "trials.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(ConfigError, match="line 1: not a trial"):
        log.read()
