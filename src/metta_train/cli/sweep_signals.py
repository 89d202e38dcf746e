"""Stopping a sweep whose jobs run in other processes: each is asked to save, none is killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from metta_train.cli.sweep import Sweep
from metta_train.envs.child_process import STOP_SIGNALS


@contextmanager
def stop_jobs_on_signals(sweep: Sweep) -> Iterator[None]:
    """TERM, USR1, HUP and the first Ctrl-C ask every job to save and end; a second Ctrl-C leaves at once.

    A terminal sends Ctrl-C to all processes of a command; the jobs' processes do not listen to it
    (`ignore_interrupts`).
    """
    asked = False
    finished = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        sweep.records.ask_to_stop(sweep.start)
        stop_jobs(sweep)
        print("\nthe jobs save and end; Ctrl-C again leaves at once", file=sys.stderr)

    def listen() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        finished.wait()

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, ask)
    # Processes inherit the mask of the thread that starts them; one thread of ours still hears the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    listener = threading.Thread(target=listen, name="sweep-signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        finished.set()
        listener.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in taken:
            signal.signal(number, before[number])


def ignore_interrupts() -> None:
    """For a job's own process: one that dies of Ctrl-C between two jobs would take those of its pool with it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def stop_jobs(sweep: Sweep) -> None:
    """TERM to the jobs that run on this machine."""
    for job in sweep.records.of_start(sweep.start):
        if job.state == "running" and job.host == socket.gethostname() and job.pid != os.getpid():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(job.pid, signal.SIGTERM)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine still does something."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
