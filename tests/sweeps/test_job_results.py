from __future__ import annotations

import csv
from pathlib import Path

import pytest

from metta_train.sweeps.job_records import JobRecord, JobRecords, JobState
from metta_train.sweeps.job_results import settings_of, write_csv

RATE = "trainer.optimizer.learning_rate"


def job(rate: str, seed: int, objective: float | None, state: JobState = "done") -> JobRecord:
    run = f"s/learning_rate-{rate}__seed-{seed}"
    values = {RATE: rate, "seed": str(seed)}
    return JobRecord(run, "start", seed, state, values, objective=objective, seconds=float(seed))


JOBS = (
    job("0.1", 1, 1.0),
    job("0.1", 2, 2.0),
    job("0.2", 1, 3.0),
    job("0.2", 2, 5.0),
    job("0.2", 3, None, "failed"),
    job("0.3", 1, None),
)


def test_seeds_of_a_setting_come_together_and_the_best_setting_first() -> None:
    best, second, last = settings_of(JOBS)
    assert (best.label, second.label, last.label) == ("learning_rate=0.2", "learning_rate=0.1", "learning_rate=0.3")
    assert best.score is not None and second.score is not None
    assert (best.done, len(best.jobs), best.score.count) == (2, 3, 2)
    assert best.score.mean.value == pytest.approx(4.0)
    assert best.score.iqm.value == pytest.approx(4.0)
    assert (best.score.mean.low, best.score.mean.high) == (3.0, 5.0)
    assert second.score.mean.value == pytest.approx(1.5)
    assert best.seconds == pytest.approx(1.5)
    assert last.score is None and last.done == 1
    labels = [setting.label for setting in settings_of(JOBS, "minimize")]
    assert labels == ["learning_rate=0.1", "learning_rate=0.2", "learning_rate=0.3"]


def test_the_table_for_programs_has_a_line_per_job(tmp_path: Path) -> None:
    file = write_csv(tmp_path, JOBS)
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["run"] for row in rows] == [job.run for job in JOBS]
    assert rows[3][RATE] == "0.2" and rows[3]["seed"] == "2" and float(rows[3]["objective"]) == 5.0
    assert rows[4]["state"] == "failed" and rows[4]["objective"] == ""


def test_records_of_a_start_are_told_apart(tmp_path: Path) -> None:
    records = JobRecords(tmp_path)
    assert records.read() == ()
    for record in JOBS:
        records.write(record)
    other = JobRecord("s/other", "later", 0, "running")
    records.write(other)
    assert records.of_start("later") == (other,)
    assert len(records.of_start("start")) == len(JOBS)
    (tmp_path / ".jobs" / "s__other.json").write_text("{")
    assert records.of_start("later") == ()
    records.ask_to_stop("start")
    assert records.asked_to_stop("start") and not records.asked_to_stop("later")
    records.forget_stop("start")
    assert not records.asked_to_stop("start")
