"""What a method of search is to the search."""

from __future__ import annotations

from abc import ABC, abstractmethod

from metta_train.sweeps.config import Values
from metta_train.sweeps.trial import Trial


class SearchMethod(ABC):
    """Proposes trials and learns from them; follows the trials of a search that was stopped and goes on."""

    @abstractmethod
    def propose(self, number: int) -> Values:
        """Values of the next trial, which gets this number; numbers are proposed in order, from 0."""

    @abstractmethod
    def go_on(self, trial: Trial) -> None:
        """A trial that an earlier start of the search has begun and not ended runs again."""

    @abstractmethod
    def is_hopeless(self, trial: Trial, look: int, score: float) -> bool:
        """Whether a running trial should be stopped.

        Args:
            trial: that runs.
            look: how many comparisons it has come through, from 1; the same number means the same agent steps.
            score: the metric so far.
        """

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """A trial has ended: it is done, pruned or failed."""
