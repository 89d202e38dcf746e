"""Schedules against the golden numbers of the reference (section 14) and their limits."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.training.config import HyperparameterSchedulerConfig, OptimizerConfig, PPOConfig, ScheduleConfig
from metta_train.training.schedules import Schedules, cosine, exponential, linear, logarithmic

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
CONSTANT = ScheduleConfig(type="constant")


def make_schedules(
    *,
    learning_rate: float = 0.000457,
    clip_coef: float = 0.1,
    vf_clip_coef: float = 0.1,
    ent_coef: float = 0.0021,
    **schedules: ScheduleConfig,
) -> Schedules:
    config = {name: CONSTANT for name in HyperparameterSchedulerConfig.model_fields} | schedules
    return Schedules(
        HyperparameterSchedulerConfig(**config),
        OptimizerConfig(type="adam", learning_rate=learning_rate, beta1=0.9, beta2=0.999, eps=1e-12, weight_decay=0.0),
        PPOConfig(
            clip_coef=clip_coef,
            ent_coef=ent_coef,
            gae_lambda=0.9,
            gamma=0.9,
            max_grad_norm=0.5,
            vf_clip_coef=vf_clip_coef,
            vf_coef=0.5,
            l2_reg_loss_coef=0.25,
            l2_init_loss_coef=0.75,
            norm_adv=True,
            clip_vloss=True,
            target_kl=None,
        ),
    )


def test_golden_numbers() -> None:
    schedules = make_schedules(
        learning_rate_schedule=ScheduleConfig(type="cosine", min_value=0.00003),
        ppo_clip_schedule=ScheduleConfig(type="logarithmic", min_value=0.05, decay_rate=0.1),
        ppo_ent_coef_schedule=ScheduleConfig(type="linear", min_value=0.0),
        ppo_vf_clip_schedule=ScheduleConfig(type="linear", min_value=0.05),
    )
    values = [schedules.at(progress) for progress in QUARTERS]
    assert [v.learning_rate for v in values] == pytest.approx(
        [0.000457, 0.0003945, 0.0002435, 0.0000925, 0.00003], abs=5e-8
    )
    assert [v.ppo_clip_coef for v in values] == pytest.approx([0.1, 0.0870462, 0.0744045, 0.0620604, 0.05], abs=5e-8)
    assert [v.ppo_ent_coef for v in values] == pytest.approx([0.0021, 0.001575, 0.00105, 0.000525, 0.0], abs=1e-12)
    assert [v.ppo_vf_clip_coef for v in values] == pytest.approx([0.1, 0.0875, 0.075, 0.0625, 0.05], abs=1e-12)


def test_constant_values_are_exactly_the_initial_ones() -> None:
    schedules = make_schedules()
    for progress in (0.0, 0.3, 1.0, 7.0):
        values = schedules.at(progress)
        assert values.learning_rate == 0.000457
        assert values.ppo_clip_coef == 0.1
        assert values.ppo_vf_clip_coef == 0.1
        assert values.ppo_ent_coef == 0.0021
        assert values.ppo_l2_reg_loss_coef == 0.25
        assert values.ppo_l2_init_loss_coef == 0.75


@pytest.mark.parametrize(
    ("key", "field", "initial"),
    [
        ("learning_rate_schedule", "learning_rate", 0.000457),
        ("ppo_clip_schedule", "ppo_clip_coef", 0.1),
        ("ppo_ent_coef_schedule", "ppo_ent_coef", 0.0021),
        ("ppo_vf_clip_schedule", "ppo_vf_clip_coef", 0.1),
        ("ppo_l2_reg_loss_schedule", "ppo_l2_reg_loss_coef", 0.25),
        ("ppo_l2_init_loss_schedule", "ppo_l2_init_loss_coef", 0.75),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "cosine", "logarithmic"])
def test_each_key_moves_its_own_value_and_null_ends_at_a_tenth(key: str, field: str, initial: float, kind: str) -> None:
    schedules = make_schedules(**{key: ScheduleConfig(type=kind)})  # pyright: ignore[reportArgumentType] - parametrized
    start, end = schedules.at(0.0), schedules.at(1.0)
    assert getattr(start, field) == pytest.approx(initial)
    assert getattr(end, field) == pytest.approx(0.1 * initial)
    untouched = {name for name in start.__slots__ if name != field}
    assert all(getattr(start, name) == getattr(end, name) for name in untouched)


def test_exponential_by_hand() -> None:
    # 1 * 0.25^0.5 = 0.5; 0.25^1 = 0.25, but the floor is 0.4.
    assert exponential(1.0, 0.4, 0.25, 0.5) == pytest.approx(0.5)
    assert exponential(1.0, 0.4, 0.25, 1.0) == 0.4
    # Without a rate, 95 % are left at the end.
    schedules = make_schedules(learning_rate_schedule=ScheduleConfig(type="exponential"), learning_rate=0.01)
    assert schedules.at(1.0).learning_rate == pytest.approx(0.0095)


def test_progress_beyond_the_end_changes_nothing() -> None:
    # The last rollout may pass total_timesteps.
    schedules = make_schedules(
        learning_rate_schedule=ScheduleConfig(type="cosine"), ppo_clip_schedule=ScheduleConfig(type="linear")
    )
    assert schedules.at(1.5) == schedules.at(1.0)


def test_negative_progress_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="0 or more"):
        make_schedules().at(-0.1)


@pytest.mark.parametrize("kind", ["linear", "cosine", "logarithmic", "exponential"])
def test_no_schedule_rises(kind: str) -> None:
    message = r"ppo_clip_schedule.min_value=0.3: needs at most the initial value, trainer.ppo.clip_coef=0.1"
    with pytest.raises(ValueError, match=message):
        make_schedules(ppo_clip_schedule=ScheduleConfig.model_validate({"type": kind, "min_value": 0.3}))
    make_schedules(ppo_clip_schedule=ScheduleConfig(type="constant", min_value=0.3))


def test_exponential_decay_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"learning_rate_schedule.decay_rate=2: needs at most 1"):
        make_schedules(learning_rate_schedule=ScheduleConfig(type="exponential", decay_rate=2.0))


@given(
    initial=st.floats(0.0, 1.0),
    final=st.floats(0.0, 1.0),
    rate=st.floats(1e-6, 10.0),
    progress=st.floats(0.0, 1.0),
)
def test_values_stay_between_their_ends(initial: float, final: float, rate: float, progress: float) -> None:
    low, high = min(initial, final) - 1e-12, max(initial, final) + 1e-12
    assert low <= linear(initial, final, progress) <= high
    assert low <= cosine(initial, final, progress) <= high
    assert low <= logarithmic(initial, final, rate, progress) <= high


def test_schedules_need_no_torch() -> None:
    program = "import sys, metta_train.training.schedules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
