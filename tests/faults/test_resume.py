"""F1, F22: a run that was killed anywhere and started again is the run that was never interrupted, to the bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.runs import CARTPOLE, FORAGE, Run, assert_same_run, lines, steps, train

KINDS = {
    "forage": FORAGE,
    "workers": [*FORAGE, "trainer.num_workers=2", "trainer.async_factor=1"],
    "cartpole": CARTPOLE,
    "slices": [*CARTPOLE, "trainer.num_workers=2", "trainer.async_factor=2"],
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.mark.fault("F1 kill -9, between checkpoints")
@pytest.mark.parametrize(
    "kind",
    [
        "cartpole",
        "workers",
        pytest.param("forage", marks=pytest.mark.slow),
        pytest.param("slices", marks=pytest.mark.slow),
    ],
)
def test_killed_between_checkpoints_it_ends_as_if_nothing_had_happened(data_dir: Path, kind: str) -> None:
    arguments = KINDS[kind]
    whole = train(data_dir, *arguments, f"run={kind}-whole")
    assert whole.code == 0, whole.err
    epochs = lines(data_dir, f"{kind}-whole")
    killed = Run(data_dir, [*arguments, f"run={kind}"])
    killed.wait_until(lambda: lines(data_dir, kind) > epochs // 2)
    killed.kill()
    assert killed.wait().code == -signal.SIGKILL
    killed.assert_nothing_left()
    assert 0 < steps(data_dir, kind)[-1] < steps(data_dir, f"{kind}-whole")[-1]
    again = train(data_dir, *arguments, f"run={kind}")
    assert again.code == 0, again.err
    assert "open a new episode" not in again.err
    assert_same_run(data_dir, kind, f"{kind}-whole")
