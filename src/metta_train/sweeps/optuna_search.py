"""Optuna's TPE over a study in SQLite: `optuna-dashboard` can show it, and a search that was stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState

from metta_train.sweeps.config import Choice, Int, LogUniform, SweepConfig, Value, Values, rounded
from metta_train.sweeps.search_method import SearchMethod
from metta_train.sweeps.trial import Trial

STUDY_FILE = "study.db"

_STATES = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class OptunaSearch(SearchMethod):
    """Trials of the study and of the search have the same numbers.

    Args:
        config: of the search.
        name: of the study.
        folder: where its file lies.
        trials: what the search remembers; the study is brought up to date with it.
        parallel: several trials run at a time.
    """

    def __init__(
        self, config: SweepConfig, *, name: str, folder: Path, trials: Mapping[int, Trial], parallel: bool
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config = config
        settings = config.optuna
        # A start that goes on must not draw the numbers of the first one again.
        seed = int(np.random.SeedSequence([config.seed, len(trials)]).generate_state(1)[0])
        self._study = optuna.create_study(
            study_name=name,
            storage=f"sqlite:///{folder / STUDY_FILE}",
            load_if_exists=True,
            direction=config.goal,
            sampler=optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=settings.startup_trials, multivariate=True, constant_liar=parallel
            ),
            pruner=_pruner(config),
        )
        self._open: dict[int, OptunaTrial] = {}
        if not self._study.trials and config.has_centers:
            self._study.enqueue_trial(_distinct(config, config.centers))
        self._catch_up(trials)

    def propose(self, number: int) -> Values:
        begun = self._begun(number)
        trial = self._study.ask() if begun is None else begun
        assert trial.number == number, f"the study is at trial {trial.number}, the search at {number}"
        self._open[number] = trial
        return {key: self._suggest(trial, key) for key in self._config.parameters}

    def go_on(self, trial: Trial) -> None:
        begun = self._begun(trial.number)
        assert begun is not None, f"the study does not know the running trial {trial.number}"
        self._open[trial.number] = begun

    def is_hopeless(self, trial: Trial, look: int, score: float) -> bool:
        running = self._open[trial.number]
        if look not in self._study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            running.report(score, step=look)
        return bool(running.should_prune())

    def tell(self, trial: Trial) -> None:
        self._open.pop(trial.number, None)
        state = _STATES[trial.state]
        # A pruned trial is worth what it was when it was stopped, which Optuna knows.
        self._study.tell(trial.number, trial.score if state is TrialState.COMPLETE else None, state=state)

    def _catch_up(self, trials: Mapping[int, Trial]) -> None:
        """Tell the study what a search that was killed had not told it."""
        for frozen in self._study.get_trials(deepcopy=False):
            known = trials.get(frozen.number)
            if frozen.state is TrialState.RUNNING and known is not None and known.ended:
                self.tell(known)

    def _begun(self, number: int) -> OptunaTrial | None:
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.number == number and frozen.state is TrialState.RUNNING:
                return OptunaTrial(self._study, frozen._trial_id)
        return None

    def _suggest(self, trial: OptunaTrial, key: str) -> Value:
        parameter = self._config.parameters[key]
        match parameter:
            case Choice():
                return parameter.values[trial.suggest_categorical(key, range(len(parameter.values)))]
            case Int():
                return trial.suggest_int(key, parameter.low, parameter.high, log=parameter.log)
        is_log = isinstance(parameter, LogUniform)
        return rounded(trial.suggest_float(key, parameter.low, parameter.high, log=is_log))


def _distinct(config: SweepConfig, values: Values) -> dict[str, Value]:
    """Values as the study knows them: choices are positions in their list."""
    told: dict[str, Value] = {}
    for key, parameter in config.parameters.items():
        told[key] = parameter.values.index(values[key]) if isinstance(parameter, Choice) else values[key]
    return told


def _pruner(config: SweepConfig) -> optuna.pruners.BasePruner:
    settings = config.optuna
    match settings.pruner:
        case "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=settings.pruner_startup_trials, n_warmup_steps=settings.warmup_looks + 1
            )
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=settings.warmup_looks + 1)
        case "none":
            return optuna.pruners.NopPruner()
