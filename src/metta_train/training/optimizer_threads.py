"""Threads that share the work of an optimizer: a few large products, in each of which torch computes with one thread.

Networks are shared by processes instead (`learners/shared_pass.py`): their many small operations would wait for
Python's lock.
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


class OptimizerThreads:
    """`count` threads; with one, everything is done by whoever asks.

    The same work and count give the same parts, so results do not depend on which thread is faster.
    """

    def __init__(self, count: int = 1) -> None:
        assert count >= 1, f"at least one thread, got {count}"
        self.count = count
        self._pool = None if count == 1 else ThreadPoolExecutor(count, "optimizer", initializer=_prepare_thread)

    def parts(self, size: int) -> list[slice]:
        """0..size in up to `count` parts of about the same size, at least 1 each."""
        number = max(1, min(self.count, size))
        ends = [size * part // number for part in range(number + 1)]
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


ONE_THREAD = OptimizerThreads()
