"""Threads that share the rows of a minibatch: each takes some of them through the whole network.

torch's own threads share every single operation and meet after each. The operations of these networks are small, so
the meetings cost much, and on cores that others use too every one of them waits for whoever was interrupted. Threads
that share rows meet once per minibatch; inside of each, torch computes with one thread (docs/benchmarks.md,
"Threads"). Policies keep no state in their modules, so that several threads may run one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from metta_train.policies.held_signals import hold_signals

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class RowThreads:
    """`count` threads; with one, everything is done by whoever asks.

    The same rows and count give the same parts, so results do not depend on which thread is faster.
    """

    def __init__(self, count: int = 1) -> None:
        assert count >= 1, f"at least one thread, got {count}"
        self.count = count
        self._pool = None if count == 1 else ThreadPoolExecutor(count, "rows", initializer=_prepare_thread)

    def parts(self, rows: int, least: int) -> list[slice]:
        """0..rows in up to `count` parts of about the same size, of at least `least` rows if there is more than one."""
        number = max(1, min(self.count, rows // least))
        ends = [rows * part // number for part in range(number + 1)]
        return [slice(first, end) for first, end in itertools.pairwise(ends)]

    def map(self, function: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
        """The results in the order of the parts, when all are done.

        Threads start without inference mode and autocast, and with gradients enabled.

        Raises:
            Exception: what `function` raised for the first part that it failed for.
        """
        if self._pool is None or len(parts) == 1:
            return [function(part) for part in parts]
        futures = [self._pool.submit(function, part) for part in parts]
        wait(futures)
        return [future.result() for future in futures]


def _prepare_thread() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # see precision.denormals_flushed
    hold_signals()


ONE_THREAD = RowThreads()
