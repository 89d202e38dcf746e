"""Signals wait while an LSTM computes gradients on the CPU.

oneDNN, which runs torch's float32 LSTM, keeps numbers below the stack pointer. A signal that is handled in that moment
puts its frame there: gradients become NaN or the heap breaks (torch 2.9.0 with AVX-512; `tests/policies/
test_held_signals.py` breaks a bare nn.LSTM within seconds). bfloat16 and inference are not affected.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Faults of the program itself cannot wait, KILL and STOP do not.
_HELD = signal.valid_signals() - {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGKILL,
    signal.SIGSEGV,
    signal.SIGSTOP,
    signal.SIGSYS,
    signal.SIGTRAP,
}


def hold_signals() -> None:
    """From now on no signal is delivered to this thread; another one takes it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


@contextmanager
def signals_held() -> Iterator[None]:
    """Signals to this thread, and to threads that it starts, are delivered after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
