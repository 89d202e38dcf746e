"""What the jobs of a sweep add up to: one line per setting over its seeds, and a table for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metta_train.reporting.statistics import ScoreSummary, summary
from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.sweeps.config import Goal
from metta_train.sweeps.job_names import SEED, short_keys
from metta_train.sweeps.job_records import JobRecord

CSV_NAME = "sweep.csv"
_FIRST = ("run", "state")
_LAST = ("objective", "agent_step", "seconds", "code", "reason")


@dataclass(frozen=True, slots=True)
class SettingResult:
    """The jobs that differ by their seed alone.

    Attributes:
        label: what sets them apart from other settings, e.g. "learning_rate=0.001"; empty when nothing does.
        jobs: all of them.
        score: of the objectives of those that are done; None when none of them has one.
    """

    label: str
    jobs: tuple[JobRecord, ...]
    score: ScoreSummary | None

    @property
    def done(self) -> int:
        """How many jobs finished."""
        return sum(job.state == "done" for job in self.jobs)

    @property
    def seconds(self) -> float | None:
        """Mean wall time of the jobs that finished."""
        told = [job.seconds for job in self.jobs if job.state == "done" and job.seconds is not None]
        return sum(told) / len(told) if told else None


def settings_of(jobs: Sequence[JobRecord], goal: Goal = "maximize") -> tuple[SettingResult, ...]:
    """The settings of a sweep, the best one (by its interquartile mean) first, those without a score last."""
    groups: dict[tuple[tuple[str, str], ...], list[JobRecord]] = {}
    for job in jobs:
        groups.setdefault(tuple(sorted(_setting(job.values).items())), []).append(job)
    labels = short_keys(list({key for setting in groups for key, _ in setting}))
    results = []
    for setting, members in groups.items():
        scores = [job.objective for job in members if job.state == "done" and job.objective is not None]
        label = ", ".join(f"{labels[key]}={value}" for key, value in setting)
        results.append(SettingResult(label, tuple(members), summary(scores) if scores else None))
    return tuple(sorted(results, key=lambda result: _rank(result, goal)))


def write_csv(folder: Path, jobs: Sequence[JobRecord]) -> Path:
    """`sweep.csv`: one line per job, a column for each key that sets jobs apart. Raises StorageError."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.values))
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*_FIRST, *keys, *_LAST])
    for job in jobs:
        values = [job.values.get(key, "") for key in keys]
        lines.writerow(
            [job.run, job.state, *values, job.objective, job.agent_step, job.seconds, job.code, job.reason or ""]
        )
    file = folder / CSV_NAME
    with storage_errors("write", file):
        replace_file(file, text.getvalue().encode())
    return file


def _setting(values: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if key != SEED}


def _rank(result: SettingResult, goal: Goal) -> tuple[bool, float, str]:
    score = result.score.iqm.value if result.score else 0.0
    return (result.score is None, -score if goal == "maximize" else score, result.label)
