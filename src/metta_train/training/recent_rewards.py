"""The training reward of the recent past: what checkpoints are compared by in a run that does not evaluate."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from metta_train.reporting.metric_names import mean_reward
from metta_train.reporting.reporter import Reporter, RunHeader, RunOutcome
from metta_train.specs.records import EpochRecord

EPOCHS = 10  # in which comparable episodes ended; the reward of a single epoch may be that of one lucky episode


class RecentRewards(Reporter):
    """Remembers the mean episode reward of the last epochs that had one.

    Args:
        before: of the checkpoint that the run goes on from.
    """

    name = "recent rewards"

    def __init__(self, before: Iterable[float] = ()) -> None:
        self._means = deque(before, maxlen=EPOCHS)

    @property
    def values(self) -> tuple[float, ...]:
        """At most `EPOCHS` means, oldest first."""
        return tuple(self._means)

    def start(self, header: RunHeader) -> None:
        pass

    def record(self, record: EpochRecord) -> None:
        episodes = [episode for episode in record.rollout.episodes if not episode.shortened]
        if episodes:
            self._means.append(mean_reward(episodes))

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        pass

    def finish(self, outcome: RunOutcome) -> None:
        pass
