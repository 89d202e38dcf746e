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
    """adam, or muon: orthogonalised momentum for matrices and AdamW for everything else."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    """Step size at the start of the run; learning_rate_schedule takes it from there."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Decay of the running mean of gradients (muon: of the momentum)."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Decay of the running mean of squared gradients."""
    eps: PositiveFloat
    """Added to the denominator of a step."""
    weight_decay: NonNegative
    """Share of a weight that a step takes away, times the learning rate."""


class PPOConfig(ConfigModel):
    """Clipped surrogate objective and its coefficients."""

    clip_coef: Annotated[float, Field(gt=0.0, le=1.0)]
    """The policy's ratio is clipped to 1 +- this."""
    ent_coef: NonNegative
    """Weight of the entropy bonus."""
    gae_lambda: Fraction
    """Lambda of the advantage: 0 = one step, 1 = the whole rest of the segment."""
    gamma: Fraction
    """Discount of the reward of the next step."""
    max_grad_norm: PositiveFloat
    """Gradients longer than this are scaled down to it."""
    vf_clip_coef: NonNegative
    """How far a value may move from the stored one before its loss is clipped."""
    vf_coef: NonNegative
    """Weight of the value loss."""
    l2_reg_loss_coef: NonNegative
    """Weight of the sum of squared weights."""
    l2_init_loss_coef: NonNegative
    """Weight of the squared distance of the weights from their anchor."""
    norm_adv: bool
    """Normalize the advantages of each minibatch to mean 0 and deviation 1."""
    clip_vloss: bool
    """Clip the value loss by vf_clip_coef."""
    target_kl: PositiveFloat | None
    """Stop the update epochs of a rollout once the policy has moved so far; null = never."""


class PrioritizedReplayConfig(ConfigModel):
    """Which segments a minibatch draws; prio_alpha 0 = every segment exactly once per update epoch."""

    prio_alpha: Fraction
    """How strongly segments with large advantages are preferred; 0 = every segment once per update epoch."""
    prio_beta0: Fraction
    """Correction of that preference at the start; it grows to 1."""


class VtraceConfig(ConfigModel):
    """Upper bounds of the importance ratios in the advantage (IMPALA, section 4.1)."""

    vtrace_rho_clip: PositiveFloat
    """Upper bound of the importance ratio in the temporal difference."""
    vtrace_c_clip: PositiveFloat
    """Upper bound of the importance ratio that carries the trace on."""


class ScheduleConfig(ConfigModel):
    """A value over the run's progress p in 0..1 (reference 6.10).

    min_value null means a tenth of the initial value; decay_rate null means the type's own (0.95 exponential,
    0.1 logarithmic).
    """

    type: Literal["constant", "linear", "cosine", "exponential", "logarithmic"]
    """The curve from the initial value to min_value over the run."""
    min_value: NonNegative | None = None
    """The value at the end; null = a tenth of the initial value."""
    decay_rate: PositiveFloat | None = None
    """Steepness; null = the type's own (0.95 exponential, 0.1 logarithmic)."""


class HyperparameterSchedulerConfig(ConfigModel):
    """One schedule for each value that changes during a run; applied once per epoch."""

    learning_rate_schedule: ScheduleConfig
    """Of trainer.optimizer.learning_rate."""
    ppo_clip_schedule: ScheduleConfig
    """Of trainer.ppo.clip_coef."""
    ppo_ent_coef_schedule: ScheduleConfig
    """Of trainer.ppo.ent_coef."""
    ppo_vf_clip_schedule: ScheduleConfig
    """Of trainer.ppo.vf_clip_coef."""
    ppo_l2_reg_loss_schedule: ScheduleConfig
    """Of trainer.ppo.l2_reg_loss_coef."""
    ppo_l2_init_loss_schedule: ScheduleConfig
    """Of trainer.ppo.l2_init_loss_coef."""


class CheckpointConfig(ConfigModel):
    """Intervals in epochs. A checkpoint is removed when none of the three `keep` keys holds it."""

    checkpoint_interval: Positive
    """Epochs between checkpoints; the last epoch of a run is always saved."""
    wandb_checkpoint_interval: Interval
    """Epochs between uploads as a wandb artifact, a multiple of checkpoint_interval; 0 = never."""
    keep_last: Annotated[int, Field(ge=2)]
    """Newest checkpoints to keep; at least 2, because the newest may turn out to be damaged."""
    keep_best: Interval
    """Best checkpoints to keep, by evaluation score, or by episode reward where nothing is evaluated."""
    keep_every: Interval
    """Epochs between milestones, which stay for ever; 0 = none."""


class SimulationConfig(ConfigModel):
    """Evaluation during training, on envs and seeds of its own."""

    evaluate_interval: Interval
    """Epochs between evaluations, a multiple of checkpoint_interval; 0 = never."""
    num_episodes: Positive
    """Episodes of one evaluation, on each environment."""
    suite: str | None
    """A set of environments from conf/eval/; null = the run's own environment."""


class InitialPolicyConfig(ConfigModel):
    """Warm start: weights only, from a checkpoint; null = fresh weights."""

    uri: str | None
    """First weights: NAME:best, :latest or :<agent step> of a run, or a checkpoint's folder; null = fresh ones."""


class ProfilerConfig(ConfigModel):
    """Torch profiler traces of single epochs, written to the run folder."""

    interval_epochs: Interval
    """Epochs between torch profiler traces in <run>/torch_traces; 0 = never."""


class TrainerConfig(ConfigModel):
    """One training: amounts are agent steps, intervals are epochs."""

    total_timesteps: Positive
    """Agent steps of the whole run, over all its starts."""
    batch_size: Positive | Auto
    """Agent steps per epoch."""
    minibatch_size: Positive | Auto
    """Agent steps per gradient step."""
    max_minibatch_size: Positive | Auto
    """Agent steps in memory at once; larger minibatches accumulate gradients over pieces of this size."""
    bptt_horizon: Positive
    """Consecutive steps of one agent through which gradients flow: the length of a segment."""
    update_epochs: Positive
    """Passes over the segments of one rollout."""
    nonfinite: Literal["stop", "skip", "rollback"]
    """What NaN or infinity in rewards, observations or gradients does: stop (exit code 7), skip the gradient steps it
    spoils, or rollback to a checkpoint."""
    num_envs: Positive | Auto
    """Environments that step together."""
    num_workers: Interval | Auto
    """Processes that step them; 0 = they step inside the trainer's process."""
    async_factor: Positive | Auto
    """Groups of environments in flight: while one is stepped, the policy acts for another."""
    forward_pass_minibatch_target_size: Positive
    """Rows (agents) per group that num_envs=auto aims at; `async_factor: auto` counts two groups."""
    precision: Literal["auto", "fp32", "bf16"]
    """Of the network's arithmetic; auto takes bf16 for token networks on CPUs that multiply it in hardware."""
    cuda_graphs: bool
    """Record every decision and gradient step as a CUDA graph: one launch in place of hundreds. Not measured yet."""
    grad_mean_variance_interval: Interval
    """Epochs between reports of the gradients' mean and variance; 0 = never."""
    optimizer: OptimizerConfig
    ppo: PPOConfig
    prioritized_experience_replay: PrioritizedReplayConfig
    vtrace: VtraceConfig
    hyperparameter_scheduler: HyperparameterSchedulerConfig
    checkpoint: CheckpointConfig
    simulation: SimulationConfig
    initial_policy: InitialPolicyConfig
    profiler: ProfilerConfig
