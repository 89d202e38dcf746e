from __future__ import annotations

from dataclasses import replace

import pytest

from metta_train.training.spikes import FACTOR, MEMORY, WARM_UP, SpikeWatch
from tests.fakes.epoch_records import epoch_record

STATS = epoch_record().update


def warned(caplog: pytest.LogCaptureFixture, values: list[float]) -> list[int]:
    """The epochs of which the watch tells, given the value loss of each."""
    watch = SpikeWatch()
    caplog.clear()
    for epoch, value in enumerate(values, start=1):
        watch.look(epoch, replace(STATS, value_loss=value, grad_norm=0.5))
    return [int(record.getMessage().split(":")[0].removeprefix("epoch ")) for record in caplog.records]


def test_one_epoch_that_stands_out_is_told_once_with_its_size(caplog: pytest.LogCaptureFixture) -> None:
    quiet = [1.0] * WARM_UP
    assert warned(caplog, [*quiet, 1000.0, 1.0, 1.0]) == [WARM_UP + 1]
    assert "the value loss is 1e+03, 1000 times its running mean" in caplog.text


def test_what_is_not_much_larger_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(caplog, [1.0, 0.5, 2.0] * 10 + [FACTOR * 0.9]) == []


def test_the_first_epochs_are_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(caplog, [1.0] * (WARM_UP - 1) + [1e6]) == []


def test_a_spike_moves_the_mean_little_and_a_new_level_becomes_normal(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(caplog, [1.0] * WARM_UP + [1e6, 1.0, 1e6]) == [WARM_UP + 1, WARM_UP + 3]
    told = warned(caplog, [1.0] * WARM_UP + [100.0] * 10 * MEMORY)
    assert 0 < len(told) < 2 * MEMORY


def test_losses_of_zero_are_no_measure(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(caplog, [0.0] * 30 + [1.0]) == []
