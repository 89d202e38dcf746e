"""Typed records that rooms hand to each other. Shapes use the letters of `specs/shapes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from metta_train.specs.recurrent_state import RecurrentState


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """What `Policy.forward` returns."""

    logits: Tensor  # [B, T, A] float, unnormalised log-probabilities
    values: Tensor  # [B, T] float
    state: RecurrentState  # after the last step


@dataclass(frozen=True, slots=True)
class PolicyStep:
    """One sampled action per row."""

    actions: Tensor  # [B] int64, indices of the action table
    log_probs: Tensor  # [B] float, of the sampled actions
    values: Tensor  # [B] float
    state: RecurrentState


@dataclass(frozen=True, slots=True)
class ActionEvaluation:
    """Stored actions under the present weights."""

    log_probs: Tensor  # [B, T]
    entropy: Tensor  # [B, T], in nats
    values: Tensor  # [B, T]


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One finished episode of one env."""

    env: int  # slot of the vector env
    length: int  # steps
    reward: float  # sum over the episode, mean over the agents
    truncated: bool
    shortened: bool  # the desynchronising first episode: its length and reward are not comparable
    stats: Mapping[str, float] = field(default_factory=dict)  # the env's own statistics; names may contain "/"


@dataclass(frozen=True, slots=True)
class RolloutStats:
    """Means over one rollout."""

    agent_steps: int
    rewards: float  # per agent step
    values: float
    log_probs: float
    terminations: float  # share of steps
    truncations: float
    actions_mean: float
    actions_std: float
    episodes: tuple[EpisodeRecord, ...]
    worker_restarts: int = 0  # env workers that failed and were started again


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Means over the minibatches of one epoch (reference 7)."""

    policy_loss: float
    value_loss: float
    entropy: float
    approx_kl: float
    clipfrac: float
    importance: float  # mean ratio
    current_logprobs: float
    explained_variance: float
    grad_norm: float  # before clipping
    l2_reg_loss: float | None  # already multiplied by its coefficient; None while the coefficient is 0
    l2_init_loss: float | None
    num_minibatches: int
    update_epochs: int  # passes done; fewer than configured when target_kl stopped the epoch
    skipped_minibatches: int = 0  # gradient steps that were not made, because of numbers that are not finite


@dataclass(frozen=True, slots=True)
class GradientStats:
    """Over all gradients of the last optimizer step, as the optimizer saw them: after clipping."""

    mean: float
    variance: float  # unbiased
    norm: float


@dataclass(frozen=True, slots=True)
class HyperparameterValues:
    """The scheduled values in force during one epoch."""

    learning_rate: float
    ppo_clip_coef: float
    ppo_vf_clip_coef: float
    ppo_ent_coef: float
    ppo_l2_reg_loss_coef: float
    ppo_l2_init_loss_coef: float


@dataclass(frozen=True, slots=True)
class EpochTiming:
    """Wall seconds (monotonic clock) of one epoch and of the run so far."""

    rollout: float  # env + inference + storing
    rollout_env: float  # waiting for envs, part of rollout
    train: float
    other: float  # statistics, checkpoints, evaluation, reporting of the epoch before
    total: float  # of this epoch
    elapsed: float  # of this process's training
    train_time: float  # rollout + train over the whole run, resumed parts included
    total_time: float  # wall over the whole run, resumed parts included


@dataclass(frozen=True, slots=True)
class WeightMetrics:
    """Spectrum of one weight matrix (reference 3.2); None where the matrix is too small or not finite."""

    layer: str
    weight_norm: float
    mean_sv: float | None
    largest_sv: float | None
    collapsed_dim: float | None
    sv_ratio: float | None
    sv_loglog_r2: float | None
    sv_loglog_slope: float | None
    effective_rank: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and the ends of its confidence interval; both are the value itself for a single score."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What a set of scores says; the order of the scores plays no role for the values."""

    count: int
    mean: Estimate
    median: Estimate
    iqm: Estimate
    deviation: float  # standard deviation, unbiased; 0 for a single score
    smallest: float
    largest: float


@dataclass(frozen=True, slots=True)
class EnvironmentScores:
    """Result of one evaluation on one environment; a score is the reward of an episode, mean over its agents."""

    environment: str
    summary: ScoreSummary
    mean_length: float  # steps per episode


@dataclass(frozen=True, slots=True)
class EvaluationScores:
    """Result of one evaluation."""

    category: str  # name of the suite, or of the environment where there is none
    score: float  # mean over the environments of the mean episode reward per agent
    episodes: int  # in all
    epoch: int  # the epoch whose weights were evaluated
    environments: tuple[EnvironmentScores, ...] = ()


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Everything reported about one epoch."""

    epoch: int  # epochs done, counted from 1
    agent_step: int  # agent steps done
    total_timesteps: int
    rollout: RolloutStats
    update: UpdateStats
    hyperparameters: HyperparameterValues
    timing: EpochTiming
    latest_saved_epoch: int  # 0 before the first checkpoint
    weights: tuple[WeightMetrics, ...] = ()
    gradients: GradientStats | None = None
    evaluation: EvaluationScores | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The counters of a run; an epoch makes a new one."""

    epoch: int = 0
    agent_step: int = 0
    optimizer_steps: int = 0
    train_time: float = 0.0
    total_time: float = 0.0
