from __future__ import annotations

from pathlib import Path

import pytest

from metta_train.reporting.reporter import RunHeader
from metta_train.reporting.run_view import RunView, duration, number, sparkline
from tests.fakes.epoch_records import episode, epoch_record


def a_view(**changes: object) -> RunView:
    values = {
        "run": "a",
        "folder": Path("a"),
        "agent": "fast",
        "environment": "forage",
        "device": "cpu",
        "total_parameters": 1,
        "total_timesteps": 10_000,
    }
    return RunView(RunHeader(**(values | changes)))  # pyright: ignore[reportArgumentType]  # a test's shorthand


def test_before_the_first_epoch_nothing_is_known() -> None:
    view = a_view(start_epoch=4, start_agent_step=4000)
    assert (view.epoch, view.agent_step, view.share_done) == (4, 4000, 0.4)
    assert view.steps_per_second is None
    assert view.seconds_left is None
    assert view.reward is None
    assert view.time_shares is None


def test_rates_are_over_the_last_twenty_seconds() -> None:
    view = a_view(total_timesteps=100_000)
    for epoch in range(1, 31):
        view.add(epoch_record(epoch, seconds=1.0))  # 1000 steps/s
    for epoch in range(31, 41):
        view.add(epoch_record(epoch, seconds=1.0, steps=1000) if epoch < 31 else epoch_record(epoch, seconds=2.0))
    # The last ten epochs took 2 s each: exactly 20 s, 500 steps/s.
    assert view.steps_per_second == pytest.approx(500.0)
    assert view.seconds_left == pytest.approx(60_000 / 500)


def test_an_epoch_longer_than_the_window_counts_alone() -> None:
    view = a_view()
    view.add(epoch_record(1, seconds=1.0))
    view.add(epoch_record(2, seconds=50.0))
    assert view.steps_per_second == pytest.approx(20.0)


def test_time_shares_add_up() -> None:
    view = a_view()
    view.add(epoch_record(1))
    shares = view.time_shares
    assert shares is not None
    values = (shares.environment, shares.inference, shares.training, shares.other)
    assert values == pytest.approx((0.4, 0.2, 0.3, 0.1))


def test_the_reward_is_the_mean_of_the_last_hundred_comparable_episodes() -> None:
    view = a_view()
    view.add(epoch_record(1, episodes=[episode(1.0)] * 60 + [episode(1000.0, shortened=True)]))
    view.add(epoch_record(2))
    view.add(epoch_record(3, episodes=[episode(2.0)] * 80))
    assert view.reward == pytest.approx((20 * 1.0 + 80 * 2.0) / 100)
    assert view.num_recent_episodes == 100
    assert view.best_reward == 2.0
    assert list(view.rewards) == [1.0, 2.0]


def test_the_best_reward_can_be_negative() -> None:
    view = a_view()
    for epoch, reward in enumerate((-3.0, -2.0, -4.0), start=1):
        view.add(epoch_record(epoch, episodes=[episode(reward)]))
    assert view.best_reward == -2.0


def test_the_history_of_a_long_run_stays_small_and_true() -> None:
    view = a_view()
    for epoch in range(1, 5001):
        view.add(epoch_record(epoch, episodes=[episode(float(epoch))]))
    assert len(view.rewards) < 512
    assert view.rewards[0] == pytest.approx(8.5)  # groups of 16 epochs: mean of 1..16
    assert view.rewards[1] == pytest.approx(24.5)


def test_overshooting_is_done() -> None:
    view = a_view(total_timesteps=1500)
    view.add(epoch_record(2))
    assert view.share_done == 1.0
    assert view.seconds_left == 0.0


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 10, ""),
        ([1.0], 10, "▁"),
        ([1.0, 1.0], 10, "▁▁"),
        ([0.0, 7.0], 10, "▁█"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8, "▁▂▃▄▅▆▇█"),
        ([0.0, 2.0, 6.0, 8.0], 2, "▁█"),  # means 1 and 7
        ([1.0, 2.0], 0, ""),
    ],
)
def test_sparklines(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (245, "4:05"), (11045, "3:04:05"), (172800 + 3 * 3600, "2 d 3 h")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (0.0, "0.0000"), (0.4127, "0.4127"), (-1.5, "-1.5000"), (12.3456, "12.346"), (123.456, "123.5"),
     (12345.6, "12346"), (1e-5, "1.00e-05"), (-2.5e7, "-2.50e+07")],
)  # fmt: skip
def test_numbers(value: float | None, expected: str) -> None:
    assert number(value) == expected
