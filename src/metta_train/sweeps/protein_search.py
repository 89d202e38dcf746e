"""PufferLib's Protein: Gaussian processes of reward and of time, and proposals along the front of both."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pufferlib.sweep import Protein

from metta_train.sweeps.config import Choice, Int, LogUniform, Parameter, SweepConfig, Value, Values, rounded
from metta_train.sweeps.search_method import SearchMethod
from metta_train.sweeps.trial import Trial

_ATTEMPTS = 100  # to draw values that no trial has had
_LEAST_SECONDS = 1e-3  # Protein takes logarithms of times


class ProteinSearch(SearchMethod):
    """Protein keeps nothing; it is told all trials again when a search goes on.

    Failed trials are left out: Protein would take them for successes. It never stops a trial.

    Args:
        config: of the search.
        trials: what the search remembers.
    """

    def __init__(self, config: SweepConfig, *, trials: Mapping[int, Trial]) -> None:
        self._config = config
        self._known = [dict(trial.values) for trial in trials.values()]
        space: dict[str, Any] = {key: _space(parameter) for key, parameter in config.parameters.items()}
        with _quiet():
            # It can only maximise: what is to be minimised has its sign turned.
            self._protein = Protein(
                {"metric": config.metric, "goal": "maximize", **space},
                max_suggestion_cost=config.protein.max_seconds,
            )
        for trial in trials.values():
            if trial.ended:
                self.tell(trial)

    def propose(self, number: int) -> Values:
        seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        with _quiet():
            values = self._values(self._protein.suggest(None)[0])
        for _ in range(_ATTEMPTS):
            if values not in self._known:
                break
            drawn = self._protein.hyperparameters.sample(1)[0]
            values = self._values(self._protein.hyperparameters.to_dict(drawn))
        self._known.append(values)
        return values

    def go_on(self, trial: Trial) -> None:
        return

    def is_hopeless(self, trial: Trial, look: int, score: float) -> bool:
        return False

    def tell(self, trial: Trial) -> None:
        if trial.state != "done" or trial.score is None:
            return
        score = trial.score if self._config.goal == "maximize" else -trial.score
        told = {key: _position(self._config.parameters[key], value) for key, value in trial.values.items()}
        self._protein.observe(told, score, max(trial.seconds or 0.0, _LEAST_SECONDS))

    def _values(self, suggested: Mapping[str, float]) -> Values:
        values: Values = {}
        for key, parameter in self._config.parameters.items():
            number = float(suggested[key])
            match parameter:
                case Choice():
                    values[key] = parameter.values[min(max(round(number), 0), len(parameter.values) - 1)]
                case Int():
                    values[key] = min(max(round(number), parameter.low), parameter.high)
                case _:
                    values[key] = min(max(rounded(number), parameter.low), parameter.high)
        return values


def _space(parameter: Parameter) -> dict[str, Any]:
    """As Protein describes a parameter; a choice is the position in its list.

    It steps over a quarter of the range at a time. Whole numbers are wider bins of a range, and few of them get longer
    steps, or it would never leave the first one.
    """
    scale = 0.5  # of a range from -1 to 1
    match parameter:
        case Choice() | Int():
            of_choice = isinstance(parameter, Choice)
            first, last = (0, len(parameter.values) - 1) if of_choice else (parameter.low, parameter.high)
            low, high = first - 0.5, last + 0.5
            scale = max(scale, min(1.0, 2.0 / (high - low)))
        case _:
            low, high = parameter.low, parameter.high
    is_log = isinstance(parameter, LogUniform) or (isinstance(parameter, Int) and parameter.log)
    return {
        "distribution": "log_normal" if is_log else "uniform",
        "min": low,
        "max": high,
        "mean": _position(parameter, parameter.middle),
        "scale": scale,
    }


def _position(parameter: Parameter, value: Value) -> float:
    if isinstance(parameter, Choice):
        return parameter.values.index(value)
    assert isinstance(value, int | float)
    return value


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Protein prints what it thinks; standard output is for results."""
    return contextlib.redirect_stdout(io.StringIO())
