from __future__ import annotations

from dataclasses import replace

import pytest

from metta_train.reporting.metric_names import metrics_of
from metta_train.specs.records import (
    EnvironmentScores,
    Estimate,
    EvaluationScores,
    GradientStats,
    ScoreSummary,
    WeightMetrics,
)
from tests.fakes.epoch_records import episode, epoch_record

ALWAYS = {
    "metric/agent_step", "metric/epoch", "metric/total_time", "metric/train_time", "overview/sps",
    "losses/policy_loss", "losses/value_loss", "losses/entropy", "losses/approx_kl", "losses/clipfrac",
    "losses/importance", "losses/current_logprobs", "losses/explained_variance", "losses/grad_norm",
    "experience/rewards", "experience/values", "experience/act_log_prob", "experience/dones", "experience/truncateds",
    "experience/actions_mean", "experience/actions_std", "experience/episodes",
    "parameters/learning_rate", "parameters/epoch_steps", "parameters/num_minibatches", "parameters/update_epochs",
    "parameters/latest_saved_policy_epoch",
    "hyperparameters/learning_rate", "hyperparameters/ppo_clip_coef", "hyperparameters/ppo_vf_clip_coef",
    "hyperparameters/ppo_ent_coef", "hyperparameters/ppo_l2_reg_loss_coef", "hyperparameters/ppo_l2_init_loss_coef",
    "timing_per_epoch/sps", "timing_cumulative/sps", "timing_cumulative/frac/_train_time",
    *(f"timing_per_epoch/{kind}/{operation}" for kind in ("frac", "msec")
      for operation in ("_rollout", "_rollout.env", "_train", "_other")),
}  # fmt: skip


def test_an_epoch_without_episodes_has_exactly_the_metrics_that_exist() -> None:
    metrics = metrics_of(epoch_record())
    assert set(metrics) == ALWAYS
    assert all(type(value) is float for value in metrics.values())


def test_values_by_hand() -> None:
    # Epoch 3 of equal epochs: 1000 steps in 2 s = 0.8 s env + 0.4 s inference + 0.6 s training + 0.2 s other.
    metrics = metrics_of(epoch_record(3))
    expected = {
        "metric/agent_step": 3000.0,
        "metric/epoch": 3.0,
        "metric/total_time": 6.0,
        "metric/train_time": 5.4,
        "overview/sps": 500.0,
        "losses/clipfrac": 0.125,
        "losses/explained_variance": 0.75,
        "experience/act_log_prob": -1.5,
        "experience/truncateds": 0.01,
        "parameters/epoch_steps": 1000.0,
        "parameters/num_minibatches": 8.0,
        "hyperparameters/ppo_vf_clip_coef": 0.2,
        "timing_per_epoch/frac/_rollout": 0.6,
        "timing_per_epoch/frac/_rollout.env": 0.4,
        "timing_per_epoch/frac/_train": 0.3,
        "timing_per_epoch/frac/_other": 0.1,
        "timing_per_epoch/msec/_train": 600.0,
        "timing_cumulative/sps": 500.0,
        "timing_cumulative/frac/_train_time": 0.9,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_rewards_and_environment_statistics_are_means_over_comparable_episodes() -> None:
    episodes = (
        episode(1.0, length=100, stats={"agent/ore.gained": 4.0, "game/tokens": 10.0, "seed": 3.0}),
        episode(2.0, length=50, stats={"agent/ore.gained": 8.0, "agent/heart/lost": 1.0}),
        episode(99.0, length=7, shortened=True, stats={"agent/ore.gained": 100.0, "only/here": 1.0}),
    )
    metrics = metrics_of(epoch_record(episodes=episodes))
    assert metrics["overview/reward"] == 1.5
    assert metrics["overview/reward_vs_total_time"] == 1.5
    assert metrics["experience/ep_lengths"] == 75.0
    assert metrics["experience/episodes"] == 2.0
    assert metrics["env_agent/ore.gained"] == 6.0
    assert metrics["env_game/tokens"] == 5.0  # the other episode has none, and MettaGrid leaves out what is 0
    assert metrics["env_agent/heart/lost"] == 0.5
    assert metrics["env/seed"] == 1.5
    assert "env_only/here" not in metrics


def test_a_shortened_episode_alone_counts_as_none() -> None:
    metrics = metrics_of(epoch_record(episodes=[episode(99.0, shortened=True, stats={"a/b": 1.0})]))
    assert set(metrics) == ALWAYS
    assert metrics["experience/episodes"] == 0.0


def test_what_is_measured_now_and_then_appears_when_measured() -> None:
    record = epoch_record()
    record = replace(
        record,
        update=replace(record.update, l2_reg_loss=0.25, l2_init_loss=0.5),
        gradients=GradientStats(mean=1e-4, variance=1e-6, norm=0.3),
        evaluation=EvaluationScores(category="forage", score=0.7, episodes=8, epoch=1),
        weights=(
            WeightMetrics(
                layer="critic_1",
                weight_norm=3.0,
                mean_sv=0.5,
                largest_sv=1.0,
                collapsed_dim=0.0,
                sv_ratio=2.0,
                sv_loglog_r2=None,
                sv_loglog_slope=None,
                effective_rank=5.0,
            ),
        ),
    )
    metrics = metrics_of(record)
    assert {name: value for name, value in metrics.items() if name not in ALWAYS} == {
        "losses/l2_reg_loss": 0.25,
        "losses/l2_init_loss": 0.5,
        "grad/mean": 1e-4,
        "grad/variance": 1e-6,
        "grad/norm": 0.3,
        "overview/forage_score": 0.7,
        "eval_forage/score": 0.7,
        "eval_forage/episodes": 8.0,
        "weights/weight_norm/critic_1": 3.0,
        "weights/mean_sv/critic_1": 0.5,
        "weights/largest_sv/critic_1": 1.0,
        "weights/collapsed_dim/critic_1": 0.0,
        "weights/sv_ratio/critic_1": 2.0,
        "weights/effective_rank/critic_1": 5.0,
    }


def test_an_epoch_that_took_no_time_divides_by_nothing() -> None:
    metrics = metrics_of(epoch_record(seconds=0.0))
    assert metrics["overview/sps"] == 0.0
    assert metrics["timing_per_epoch/frac/_train"] == 0.0


def environment_scores(environment: str, mean: float) -> EnvironmentScores:
    value = Estimate(mean, mean - 1, mean + 1)
    told = ScoreSummary(4, value, replace(value, value=mean + 0.5), replace(value, value=mean + 0.25), 1.0, 0.0, 9.0)
    return EnvironmentScores(environment, told, mean_length=30.0)


def test_an_evaluation_has_its_intervals_in_the_epoch_that_was_evaluated() -> None:
    alone = EvaluationScores("forage", 2.0, 4, epoch=3, environments=(environment_scores("forage", 2.0),))
    metrics = metrics_of(epoch_record(3, evaluation=alone))
    assert {name: value for name, value in metrics.items() if name not in ALWAYS} == {
        "overview/forage_score": 2.0,
        "eval_forage/score": 2.0,
        "eval_forage/episodes": 4.0,
        "eval_forage/mean": 2.0,
        "eval_forage/mean_low": 1.0,
        "eval_forage/mean_high": 3.0,
        "eval_forage/median": 2.5,
        "eval_forage/median_low": 1.0,
        "eval_forage/median_high": 3.0,
        "eval_forage/iqm": 2.25,
        "eval_forage/iqm_low": 1.0,
        "eval_forage/iqm_high": 3.0,
        "eval_forage/ep_lengths": 30.0,
    }
    later = metrics_of(epoch_record(4, evaluation=alone))
    assert {name for name in later if "eval" in name} == {"eval_forage/score"}, "the score stays, the rest is past"


def test_environments_of_a_suite_are_told_apart() -> None:
    both = (environment_scores("easy", 2.0), environment_scores("hard", 1.0))
    metrics = metrics_of(epoch_record(3, evaluation=EvaluationScores("forage", 1.5, 8, epoch=3, environments=both)))
    assert metrics["eval_forage/score"] == 1.5
    assert (metrics["eval_forage/easy/mean"], metrics["eval_forage/hard/iqm"]) == (2.0, 1.25)
