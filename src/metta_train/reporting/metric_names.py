"""The one owner of metric names: they keep the original's spelling (reference 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from metta_train.specs.records import EpisodeRecord, EpochRecord, EpochTiming, EvaluationScores, WeightMetrics

AGENT_STEP = "metric/agent_step"
EPOCH = "metric/epoch"
TOTAL_TIME = "metric/total_time"
TRAIN_TIME = "metric/train_time"
X_AXES = (AGENT_STEP, EPOCH, TOTAL_TIME, TRAIN_TIME)

STEPS_PER_SECOND = "overview/sps"
REWARD = "overview/reward"
REWARD_VS_TOTAL_TIME = "overview/reward_vs_total_time"
TOTAL_PARAMETERS = "model/total_parameters"
SCORE_PREFIX, SCORE_SUFFIX = "eval_", "/score"  # around the name of what was evaluated


def metrics_of(record: EpochRecord) -> dict[str, float]:
    """Everything about one epoch under its metric name.

    A metric without a value in this epoch is absent, never zero: rewards and `env_*` statistics when no comparable
    episode ended (an episode marked `shortened` is not comparable), losses whose coefficient is 0, and whatever is
    measured only every so many epochs.
    """
    episodes = [episode for episode in record.rollout.episodes if not episode.shortened]
    metrics = {
        AGENT_STEP: float(record.agent_step),
        EPOCH: float(record.epoch),
        TOTAL_TIME: record.timing.total_time,
        TRAIN_TIME: record.timing.train_time,
        STEPS_PER_SECOND: _rate(record.rollout.agent_steps, record.timing.total),
    }
    if episodes:
        metrics[REWARD] = metrics[REWARD_VS_TOTAL_TIME] = mean_reward(episodes)
    metrics |= _losses(record)
    metrics |= _experience(record, episodes)
    metrics |= _parameters(record)
    metrics |= _environment(episodes)
    metrics |= _timing(record)
    for weights in record.weights:
        metrics |= _weights(weights)
    if record.gradients is not None:
        metrics["grad/mean"] = record.gradients.mean
        metrics["grad/variance"] = record.gradients.variance
        metrics["grad/norm"] = record.gradients.norm
    if record.evaluation is not None:
        metrics |= _evaluation(record.evaluation, record.epoch)
    return metrics


def mean_reward(episodes: Iterable[EpisodeRecord]) -> float:
    """Mean episode reward per agent; at least one episode is needed."""
    rewards = [episode.reward for episode in episodes]
    return sum(rewards) / len(rewards)


def _losses(record: EpochRecord) -> dict[str, float]:
    update = record.update
    losses = {
        "losses/policy_loss": update.policy_loss,
        "losses/value_loss": update.value_loss,
        "losses/entropy": update.entropy,
        "losses/approx_kl": update.approx_kl,
        "losses/clipfrac": update.clipfrac,
        "losses/importance": update.importance,
        "losses/current_logprobs": update.current_logprobs,
        "losses/explained_variance": update.explained_variance,
        "losses/grad_norm": update.grad_norm,
    }
    if update.l2_reg_loss is not None:
        losses["losses/l2_reg_loss"] = update.l2_reg_loss
    if update.l2_init_loss is not None:
        losses["losses/l2_init_loss"] = update.l2_init_loss
    if update.skipped_minibatches:
        losses["losses/skipped_minibatches"] = float(update.skipped_minibatches)
    return losses


def _experience(record: EpochRecord, episodes: list[EpisodeRecord]) -> dict[str, float]:
    rollout = record.rollout
    experience = {
        "experience/rewards": rollout.rewards,
        "experience/values": rollout.values,
        "experience/act_log_prob": rollout.log_probs,
        "experience/dones": rollout.terminations,
        "experience/truncateds": rollout.truncations,
        "experience/actions_mean": rollout.actions_mean,
        "experience/actions_std": rollout.actions_std,
        "experience/episodes": float(len(episodes)),
    }
    if episodes:
        experience["experience/ep_lengths"] = sum(episode.length for episode in episodes) / len(episodes)
    if rollout.worker_restarts:
        experience["env/worker_restarts"] = float(rollout.worker_restarts)
    return experience


def _parameters(record: EpochRecord) -> dict[str, float]:
    values = record.hyperparameters
    return {
        "parameters/learning_rate": values.learning_rate,
        "parameters/epoch_steps": float(record.rollout.agent_steps),
        "parameters/num_minibatches": float(record.update.num_minibatches),
        "parameters/update_epochs": float(record.update.update_epochs),
        "parameters/latest_saved_policy_epoch": float(record.latest_saved_epoch),
        "hyperparameters/learning_rate": values.learning_rate,
        "hyperparameters/ppo_clip_coef": values.ppo_clip_coef,
        "hyperparameters/ppo_vf_clip_coef": values.ppo_vf_clip_coef,
        "hyperparameters/ppo_ent_coef": values.ppo_ent_coef,
        "hyperparameters/ppo_l2_reg_loss_coef": values.ppo_l2_reg_loss_coef,
        "hyperparameters/ppo_l2_init_loss_coef": values.ppo_l2_init_loss_coef,
    }


def _environment(episodes: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Means over all episodes: `agent/ore.gained` is `env_agent/ore.gained`.

    An episode without a statistic counts 0, because MettaGrid leaves out what never happened.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for episode in episodes:
        for name, value in episode.stats.items():
            totals[_environment_name(name)] += value
    return {name: total / len(episodes) for name, total in sorted(totals.items())}


def _environment_name(statistic: str) -> str:
    first, slash, rest = statistic.partition("/")
    return f"env_{first}/{rest}" if slash else f"env/{first}"


def _timing(record: EpochRecord) -> dict[str, float]:
    timing = record.timing
    metrics: dict[str, float] = {}
    for operation, seconds in _operations(timing).items():
        metrics[f"timing_per_epoch/frac/{operation}"] = _rate(seconds, timing.total)
        metrics[f"timing_per_epoch/msec/{operation}"] = seconds * 1000.0
    metrics["timing_per_epoch/sps"] = _rate(record.rollout.agent_steps, timing.total)
    metrics["timing_cumulative/sps"] = _rate(record.agent_step, timing.total_time)
    metrics["timing_cumulative/frac/_train_time"] = _rate(timing.train_time, timing.total_time)
    return metrics


def _operations(timing: EpochTiming) -> Mapping[str, float]:
    return {
        "_rollout": timing.rollout,
        "_rollout.env": timing.rollout_env,
        "_train": timing.train,
        "_other": timing.other,
    }


def _weights(weights: WeightMetrics) -> dict[str, float]:
    values = {
        "weight_norm": weights.weight_norm,
        "mean_sv": weights.mean_sv,
        "largest_sv": weights.largest_sv,
        "collapsed_dim": weights.collapsed_dim,
        "sv_ratio": weights.sv_ratio,
        "sv_loglog_r2": weights.sv_loglog_r2,
        "sv_loglog_slope": weights.sv_loglog_slope,
        "effective_rank": weights.effective_rank,
    }
    return {f"weights/{metric}/{weights.layer}": value for metric, value in values.items() if value is not None}


def _evaluation(scores: EvaluationScores, epoch: int) -> dict[str, float]:
    """The last score in every epoch, as the original has it; what lies behind it in the epoch that was evaluated.

    `eval_forage/mean` where one environment is evaluated, `eval_<suite>/<environment>/mean` of a suite.
    """
    category = scores.category
    metrics = {f"overview/{category}_score": scores.score, f"{SCORE_PREFIX}{category}{SCORE_SUFFIX}": scores.score}
    if scores.epoch != epoch:
        return metrics
    metrics[f"eval_{category}/episodes"] = float(scores.episodes)
    alone = [of_one.environment for of_one in scores.environments] == [category]
    for of_one in scores.environments:
        group = f"eval_{category}" if alone else f"eval_{category}/{of_one.environment}"
        summary = of_one.summary
        for name, estimate in (("mean", summary.mean), ("median", summary.median), ("iqm", summary.iqm)):
            metrics[f"{group}/{name}"] = estimate.value
            metrics[f"{group}/{name}_low"] = estimate.low
            metrics[f"{group}/{name}_high"] = estimate.high
        metrics[f"{group}/ep_lengths"] = of_one.mean_length
    return metrics


def _rate(amount: float, whole: float) -> float:
    return amount / whole if whole > 0.0 else 0.0
