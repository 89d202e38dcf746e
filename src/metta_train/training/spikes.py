"""Warnings when a loss or a gradient is far larger than it has been lately."""

from __future__ import annotations

import logging

from metta_train.specs.records import UpdateStats

MEMORY = 20  # epochs that the running mean looks back
FACTOR = 10.0  # times the running mean
WARM_UP = 10  # epochs without a warning

logger = logging.getLogger(__name__)


class SpikeWatch:
    """Tells of single epochs that stand out; changes nothing, and starts anew when a run continues."""

    def __init__(self) -> None:
        self._epochs = 0
        self._means = {"gradient norm": 0.0, "value loss": 0.0}

    def look(self, epoch: int, stats: UpdateStats) -> None:
        """Compare one epoch to those before it."""
        values = {"gradient norm": stats.grad_norm, "value loss": stats.value_loss}
        self._epochs += 1
        for name, value in values.items():
            mean = self._means[name]
            if self._epochs > WARM_UP and value > FACTOR * mean > 0.0:
                logger.warning(
                    "epoch %d: the %s is %.3g, %.0f times its running mean; should this come often, try a smaller "
                    "trainer.optimizer.learning_rate",
                    epoch,
                    name,
                    value,
                    value / mean,
                )
            share = 1.0 / min(self._epochs, MEMORY)
            self._means[name] = mean + share * (min(value, FACTOR * mean if mean > 0.0 else value) - mean)
