"""The schema of `conf/trainer/`: keys as the original spelled them (reference 1.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from metta_train.specs.config_model import ConfigModel

Positive = Annotated[int, Field(gt=0)]
Interval = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Auto = Literal["auto"]


class OptimizerConfig(ConfigModel):
    """Adam, or Muon for the 2-D weights with AdamW for the rest."""

    type: Literal["adam", "muon"]
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)]
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)]
    eps: PositiveFloat
    weight_decay: NonNegative


class PPOConfig(ConfigModel):
    """Clipped surrogate objective and its coefficients."""

    clip_coef: Annotated[float, Field(gt=0.0, le=1.0)]
    ent_coef: NonNegative
    gae_lambda: Fraction
    gamma: Fraction
    max_grad_norm: PositiveFloat
    vf_clip_coef: NonNegative
    vf_coef: NonNegative
    l2_reg_loss_coef: NonNegative
    l2_init_loss_coef: NonNegative
    norm_adv: bool
    clip_vloss: bool
    target_kl: PositiveFloat | None  # checked after each update epoch; null = never stop early


class PrioritizedReplayConfig(ConfigModel):
    """Which segments a minibatch draws; prio_alpha 0 = every segment exactly once per update epoch."""

    prio_alpha: Fraction
    prio_beta0: Fraction


class VtraceConfig(ConfigModel):
    """Upper bounds of the importance ratios in the advantage (IMPALA, section 4.1)."""

    vtrace_rho_clip: PositiveFloat
    vtrace_c_clip: PositiveFloat


class ScheduleConfig(ConfigModel):
    """A value over the run's progress p in 0..1 (reference 6.10).

    min_value null means a tenth of the initial value; decay_rate null means the type's own (0.95 exponential,
    0.1 logarithmic).
    """

    type: Literal["constant", "linear", "cosine", "exponential", "logarithmic"]
    min_value: NonNegative | None = None
    decay_rate: PositiveFloat | None = None


class HyperparameterSchedulerConfig(ConfigModel):
    """One schedule for each value that changes during a run; applied once per epoch."""

    learning_rate_schedule: ScheduleConfig
    ppo_clip_schedule: ScheduleConfig
    ppo_ent_coef_schedule: ScheduleConfig
    ppo_vf_clip_schedule: ScheduleConfig
    ppo_l2_reg_loss_schedule: ScheduleConfig
    ppo_l2_init_loss_schedule: ScheduleConfig


class CheckpointConfig(ConfigModel):
    """Intervals in epochs. A checkpoint is removed when none of the three `keep` keys holds it."""

    checkpoint_interval: Positive
    wandb_checkpoint_interval: Interval  # upload as a wandb artifact; a multiple of checkpoint_interval; 0 = never
    keep_last: Annotated[int, Field(ge=2)]  # newest; 2 at least, because the newest may turn out to be damaged
    keep_best: Interval  # by evaluation score, or by episode reward where nothing is evaluated
    keep_every: Interval  # epochs between milestones, which stay for ever; 0 = none


class SimulationConfig(ConfigModel):
    """Evaluation during training, on envs and seeds of its own."""

    evaluate_interval: Interval  # epochs; 0 = never
    num_episodes: Positive


class InitialPolicyConfig(ConfigModel):
    """Warm start: weights only, from a checkpoint folder (`file://` or a plain path); null = fresh weights."""

    uri: str | None


class ProfilerConfig(ConfigModel):
    """Torch profiler traces of single epochs, written to the run folder."""

    interval_epochs: Interval  # 0 = never


class TrainerConfig(ConfigModel):
    """One training: amounts are agent steps, intervals are epochs."""

    total_timesteps: Positive
    batch_size: Positive | Auto
    minibatch_size: Positive | Auto
    max_minibatch_size: Positive | Auto  # larger minibatches accumulate gradients over pieces of this size
    bptt_horizon: Positive
    update_epochs: Positive
    nonfinite: Literal["stop", "skip", "rollback"]  # what NaN or infinity in rewards, observations or gradients does
    num_envs: Positive | Auto
    num_workers: Interval | Auto  # env processes; 0 = envs step inside the trainer's process
    async_factor: Positive | Auto  # env slices in flight
    forward_pass_minibatch_target_size: Positive  # rows that `num_envs: auto` aims at, per slice
    precision: Literal["auto", "fp32", "bf16"]
    grad_mean_variance_interval: Interval  # 0 = never
    optimizer: OptimizerConfig
    ppo: PPOConfig
    prioritized_experience_replay: PrioritizedReplayConfig
    vtrace: VtraceConfig
    hyperparameter_scheduler: HyperparameterSchedulerConfig
    checkpoint: CheckpointConfig
    simulation: SimulationConfig
    initial_policy: InitialPolicyConfig
    profiler: ProfilerConfig
