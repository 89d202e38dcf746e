"""F1: kill -9 at hundreds of random moments."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.runs import CARTPOLE, SMALL_FORAGE, assert_same_run
from tests.faults.warm_start import WarmStart

KINDS = {
    "cartpole": CARTPOLE,
    "forage": SMALL_FORAGE,
    "forage with a worker": [*SMALL_FORAGE, "trainer.num_workers=1", "trainer.async_factor=1"],
    "workers": [*CARTPOLE, "trainer.num_workers=2", "trainer.async_factor=2"],
}


def torture(data_dir: Path, kind: str, kills: int, tally: Tally) -> None:
    """Runs are killed and started again until they end, each of them compared to one that never was killed."""
    dice = random.Random(f"kills of {kind}")
    arguments = KINDS[kind]
    with WarmStart(data_dir) as warm:
        code, seconds = warm.run([*arguments, "run=whole"])
        assert code == 0, (data_dir / "warm.log").read_text()[-2000:]
        done = number = 0
        while done < kills:
            run = f"run-{number}"
            number += 1
            while True:
                code, _ = warm.run([*arguments, f"run={run}"], kill_after=dice.uniform(0.0, 1.1 * seconds))
                if code == 0:
                    break
                assert code == -9, f"exit code {code}:\n{(data_dir / 'warm.log').read_text()[-2000:]}"
                done += 1
                if done % 3 == 0 or done >= kills:  # often enough to the end
                    started = time.monotonic()
                    code, _ = warm.run([*arguments, f"run={run}"])
                    assert code == 0, (data_dir / "warm.log").read_text()[-2000:]
                    tally.add(survived=True, recovery=time.monotonic() - started)
                    break
                tally.add(survived=True)
            assert_same_run(data_dir, run, "whole")
    assert "open a new episode" not in (data_dir / "warm.log").read_text()


@pytest.mark.fault("F1 kill -9, random moment")
def test_a_few_random_kills(tmp_path: Path, tally: Tally) -> None:
    torture(tmp_path, "cartpole", 5, tally)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault("F1 kill -9, random moment")
@pytest.mark.parametrize(
    ("kind", "kills"), [("cartpole", 100), ("workers", 50), ("forage", 50), ("forage with a worker", 20)]
)
def test_many_random_kills(kind: str, kills: int, tmp_path: Path, tally: Tally) -> None:
    torture(tmp_path, kind, kills, tally)
