"""Values that change during a run, as functions of its progress p in 0..1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metta_train.specs.records import HyperparameterValues
from metta_train.training.config import HyperparameterSchedulerConfig, OptimizerConfig, PPOConfig, ScheduleConfig

ScheduleType = Literal["constant", "linear", "cosine", "exponential", "logarithmic"]

# min_value null: the schedule ends at this share of the initial value.
DEFAULT_MIN_SHARE = 0.1
DEFAULT_EXPONENTIAL_RATE = 0.95
DEFAULT_LOGARITHMIC_RATE = 0.1


def linear(initial: float, final: float, progress: float) -> float:
    """From initial to final: initial + (final - initial) * p."""
    return initial + (final - initial) * progress


def cosine(initial: float, final: float, progress: float) -> float:
    """Half a cosine wave: final + (initial - final) * (1 + cos(pi * p)) / 2."""
    return final + (initial - final) * (1.0 + math.cos(math.pi * progress)) / 2.0


def exponential(initial: float, floor: float, decay_rate: float, progress: float) -> float:
    """In equal shares: max(initial * decay_rate^p, floor); `decay_rate` is the share left at the end of the run."""
    return max(initial * decay_rate**progress, floor)


def logarithmic(initial: float, final: float, decay_rate: float, progress: float) -> float:
    """Fast first: initial + (final - initial) * ln(1 + decay_rate * p) / ln(1 + decay_rate)."""
    return initial + (final - initial) * math.log1p(decay_rate * progress) / math.log1p(decay_rate)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One value over the run.

    Linear, cosine and logarithmic move from `initial` down to `final`.
    Exponential falls from `initial` and stops at `final`. Constant stays at `initial`; `final` has no meaning then.
    """

    type: ScheduleType
    initial: float
    final: float
    decay_rate: float  # exponential and logarithmic only

    def at(self, progress: float) -> float:
        """The value after the share `progress` of the run, 0 or more; beyond 1 it stays at its end."""
        assert progress >= 0.0, f"progress must be 0 or more, got {progress}"
        progress = min(progress, 1.0)
        match self.type:
            case "constant":
                return self.initial
            case "linear":
                return linear(self.initial, self.final, progress)
            case "cosine":
                return cosine(self.initial, self.final, progress)
            case "exponential":
                return exponential(self.initial, self.final, self.decay_rate, progress)
            case "logarithmic":
                return logarithmic(self.initial, self.final, self.decay_rate, progress)


class Schedules:
    """Every scheduled value of a run. Needs no torch, so a configuration can be checked by building one.

    Raises:
        ValueError: a schedule that cannot mean what it says.
    """

    def __init__(self, config: HyperparameterSchedulerConfig, optimizer: OptimizerConfig, ppo: PPOConfig) -> None:
        self._learning_rate = _build(
            "learning_rate_schedule",
            config.learning_rate_schedule,
            "trainer.optimizer.learning_rate",
            optimizer.learning_rate,
        )
        self._clip_coef = _build("ppo_clip_schedule", config.ppo_clip_schedule, "trainer.ppo.clip_coef", ppo.clip_coef)
        self._vf_clip_coef = _build(
            "ppo_vf_clip_schedule", config.ppo_vf_clip_schedule, "trainer.ppo.vf_clip_coef", ppo.vf_clip_coef
        )
        self._ent_coef = _build(
            "ppo_ent_coef_schedule", config.ppo_ent_coef_schedule, "trainer.ppo.ent_coef", ppo.ent_coef
        )
        self._l2_reg_loss_coef = _build(
            "ppo_l2_reg_loss_schedule",
            config.ppo_l2_reg_loss_schedule,
            "trainer.ppo.l2_reg_loss_coef",
            ppo.l2_reg_loss_coef,
        )
        self._l2_init_loss_coef = _build(
            "ppo_l2_init_loss_schedule",
            config.ppo_l2_init_loss_schedule,
            "trainer.ppo.l2_init_loss_coef",
            ppo.l2_init_loss_coef,
        )

    def at(self, progress: float) -> HyperparameterValues:
        """The values in force after the share `progress` of the run's agent steps."""
        return HyperparameterValues(
            learning_rate=self._learning_rate.at(progress),
            ppo_clip_coef=self._clip_coef.at(progress),
            ppo_vf_clip_coef=self._vf_clip_coef.at(progress),
            ppo_ent_coef=self._ent_coef.at(progress),
            ppo_l2_reg_loss_coef=self._l2_reg_loss_coef.at(progress),
            ppo_l2_init_loss_coef=self._l2_init_loss_coef.at(progress),
        )


def _build(key: str, config: ScheduleConfig, initial_key: str, initial: float) -> Schedule:
    path = f"trainer.hyperparameter_scheduler.{key}"
    final = DEFAULT_MIN_SHARE * initial if config.min_value is None else config.min_value
    decay_rate = config.decay_rate
    if decay_rate is None:
        decay_rate = DEFAULT_EXPONENTIAL_RATE if config.type == "exponential" else DEFAULT_LOGARITHMIC_RATE
    if config.type != "constant" and final > initial:
        # Most often a learning rate was lowered below a floor that came with the preset; raising it is never meant.
        raise ValueError(
            f"{path}.min_value={final:g}: needs at most the initial value, {initial_key}={initial:g}; "
            "use null for a tenth of it, or type=constant"
        )
    if config.type == "exponential" and decay_rate > 1.0:
        raise ValueError(
            f"{path}.decay_rate={decay_rate:g}: needs at most 1 for an exponential schedule "
            "(the share of the initial value that is left at the end of the run)"
        )
    return Schedule(type=config.type, initial=initial, final=final, decay_rate=decay_rate)
