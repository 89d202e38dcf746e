"""Threads that share work: parts, order, errors."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metta_train.training.optimizer_threads import OptimizerThreads


@given(count=st.integers(1, 9), size=st.integers(0, 200))
def test_parts_cover_the_work_evenly(count, size):
    parts = OptimizerThreads(count).parts(size)
    assert [one for part in parts for one in range(part.start, part.stop)] == list(range(size))
    sizes = [part.stop - part.start for part in parts]
    assert len(parts) <= count and max(sizes) - min(sizes) <= 1
    assert len(parts) == min(count, max(1, size))


def test_results_come_in_the_order_of_the_parts_from_threads_of_one_torch_thread():
    threads = OptimizerThreads(3)

    def work(number: int) -> tuple[int, str, int, bool]:
        time.sleep(0.02 * (3 - number))
        held = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return number, threading.current_thread().name, torch.get_num_threads(), held

    results = threads.map(work, [0, 1, 2])
    assert [number for number, *_ in results] == [0, 1, 2]
    assert len({name for _, name, *_ in results}) == 3
    assert all(torch_threads == 1 and held for *_, torch_threads, held in results)


def test_one_thread_is_the_callers_own():
    assert OptimizerThreads(1).map(lambda _: threading.current_thread(), [0, 1]) == [threading.current_thread()] * 2


def test_an_error_is_told_when_every_thread_is_done():
    done = []

    def work(number: int) -> None:
        if number == 0:
            raise ZeroDivisionError
        time.sleep(0.1)
        done.append(number)

    with pytest.raises(ZeroDivisionError):
        OptimizerThreads(2).map(work, [0, 1])
    assert done == [1]
