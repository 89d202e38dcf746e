"""GPUs are shared out by name; none is needed to see that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metta_train.sweeps.config import SweepConfig
from metta_train.sweeps.devices import VISIBLE, DeviceShare, visible_devices
from metta_train.sweeps.search import Search, SearchFolder
from metta_train.sweeps.trial import Trial, TrialLog
from tests.sweeps.test_search import PROGRAM, SPACE, Counting


@pytest.mark.parametrize(
    ("chosen", "devices"),
    [("0,1,3", ("0", "1", "3")), ("GPU-1a, GPU-2b", ("GPU-1a", "GPU-2b")), ("", ()), ("-1", ()), ("5", ("5",))],
)
def test_the_choice_of_the_environment_counts(chosen: str, devices: tuple[str, ...]) -> None:
    assert visible_devices({VISIBLE: chosen}) == devices


def test_the_device_with_the_fewest_users_is_next() -> None:
    share = DeviceShare(["3", "7"])
    assert [share.take(user)[VISIBLE] for user in range(3)] == ["3", "7", "3"]
    share.give_back(0)
    share.give_back(2)
    assert share.take(4) == {VISIBLE: "3"}
    assert DeviceShare(["3"]).take(0) == DeviceShare([]).take(0) == {}, "nothing to share out"


def test_trials_at_a_time_see_one_device_each(tmp_path: Path) -> None:
    config = SweepConfig.model_validate({**SPACE, "trials": 4})
    script = (
        f"import os, runpy, sys; print('sees', os.environ['{VISIBLE}']); del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    def command(trial: Trial) -> list[str]:
        return [sys.executable, "-c", script, PROGRAM, str(tmp_path / trial.name), "1.0", "3", "done"]

    log = TrialLog(tmp_path / "trials.jsonl")
    search = Search(
        config, Counting(), SearchFolder(tmp_path), log, command, look_every=10, told=lambda trial: None, devices="37"
    )
    search.run(jobs=2)
    logs = sorted(tmp_path.rglob("trial-*.log"))
    seen = [next(line.split()[1] for line in file.read_text().splitlines() if "sees" in line) for file in logs]
    assert len(seen) == 4 and set(seen) == {"3", "7"} and seen[0] != seen[1]
