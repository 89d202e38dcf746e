"""Epoch records with numbers that are easy to follow by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from metta_train.specs.records import (
    EpisodeRecord,
    EpochRecord,
    EpochTiming,
    HyperparameterValues,
    RolloutStats,
    UpdateStats,
)


def episode(reward: float, *, length: int = 100, shortened: bool = False, stats: Mapping[str, float] | None = None):
    return EpisodeRecord(
        env=0, length=length, reward=reward, truncated=True, shortened=shortened, stats={} if stats is None else stats
    )


def epoch_record(
    epoch: int = 1,
    *,
    episodes: Sequence[EpisodeRecord] = (),
    steps: int = 1000,
    total: int = 10_000,
    seconds: float = 2.0,
    **changes: object,
) -> EpochRecord:
    """Epoch `epoch` of equal epochs: 60 % rollout (40 % env, 20 % inference), 30 % training, 10 % other."""
    record = EpochRecord(
        epoch=epoch,
        agent_step=epoch * steps,
        total_timesteps=total,
        rollout=RolloutStats(
            agent_steps=steps,
            rewards=0.01,
            values=0.2,
            log_probs=-1.5,
            terminations=0.0,
            truncations=0.01,
            actions_mean=2.0,
            actions_std=1.0,
            episodes=tuple(episodes),
        ),
        update=UpdateStats(
            policy_loss=-0.0125,
            value_loss=0.5,
            entropy=1.25,
            approx_kl=0.003,
            clipfrac=0.125,
            importance=1.0,
            current_logprobs=-1.5,
            explained_variance=0.75,
            grad_norm=0.4,
            l2_reg_loss=None,
            l2_init_loss=None,
            num_minibatches=8,
            update_epochs=2,
        ),
        hyperparameters=HyperparameterValues(
            learning_rate=1e-3,
            ppo_clip_coef=0.1,
            ppo_vf_clip_coef=0.2,
            ppo_ent_coef=0.01,
            ppo_l2_reg_loss_coef=0.0,
            ppo_l2_init_loss_coef=0.0,
        ),
        timing=EpochTiming(
            rollout=0.6 * seconds,
            rollout_env=0.4 * seconds,
            train=0.3 * seconds,
            other=0.1 * seconds,
            total=seconds,
            elapsed=epoch * seconds,
            train_time=epoch * 0.9 * seconds,
            total_time=epoch * seconds,
        ),
        latest_saved_epoch=0,
    )
    return replace(record, **changes)
