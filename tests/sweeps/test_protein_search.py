from __future__ import annotations

import subprocess
import sys

import pytest

from metta_train.sweeps.config import SweepConfig
from metta_train.sweeps.protein_search import ProteinSearch
from metta_train.sweeps.trial import Trial

SPACE = {
    "method": "protein",
    "parameters": {
        "lr": {"type": "loguniform", "low": 1e-4, "high": 1e-2, "center": 2e-3},
        "epochs": {"type": "int", "low": 1, "high": 4},
        "agent": {"type": "choice", "values": ["fast", "mlp"]},
    },
}
CONFIG = SweepConfig.model_validate(SPACE)


def test_the_guess_comes_first_and_no_values_twice(capsys: pytest.CaptureFixture[str]) -> None:
    method = ProteinSearch(CONFIG, trials={})
    proposed = [method.propose(number) for number in range(6)]
    assert proposed[0] == {"lr": 0.002, "epochs": 2, "agent": "fast"}
    assert len({str(values) for values in proposed}) == 6
    for values in proposed[1:]:
        assert isinstance(values["lr"], float) and 1e-4 <= values["lr"] <= 1e-2
        assert values["epochs"] in (1, 2, 3, 4) and values["agent"] in ("fast", "mlp")
    assert {values["agent"] for values in proposed} == {"fast", "mlp"}
    assert capsys.readouterr().out == ""


def test_it_goes_on_with_what_it_is_told() -> None:
    center = CONFIG.centers
    trials = {0: Trial(0, center, "done", score=1.0, seconds=10.0), 1: Trial(1, {**center, "epochs": 3}, "failed")}
    values = ProteinSearch(CONFIG, trials=trials).propose(2)
    assert values.keys() == center.keys()
    assert values not in [trial.values for trial in trials.values()]


def test_it_does_not_bring_the_trainer_of_pufferlib_along() -> None:
    """Its import would take Ctrl-C away."""
    script = (
        "import signal, sys; before = signal.getsignal(signal.SIGINT); import metta_train.sweeps.protein_search; "
        "assert signal.getsignal(signal.SIGINT) is before; assert 'pufferlib.pufferl' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
