"""What the handlers do, and that they leave no trace."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from metta_train.cli.signals import stop_on_signals
from metta_train.envs.child_process import BATCH_SIGNALS
from metta_train.training import stopping
from metta_train.training.stopping import StopRequest, StopRequested


@pytest.fixture(autouse=True)
def handlers_come_back() -> Iterator[None]:
    numbers = (*BATCH_SIGNALS, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", BATCH_SIGNALS)
def test_a_batch_signal_asks_for_a_stop_that_does_not_wait_long(number: signal.Signals) -> None:
    stop = StopRequest()
    with stop_on_signals(stop):
        os.kill(os.getpid(), number)
        assert stop.requested
    with pytest.raises(StopRequested, match=f"stopped by {number.name}"):
        stop.check()
    stop.check_finishing()  # an update in progress still has its time


def test_time_for_an_update_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", -1.0)
    stop = StopRequest()
    stop.request("Ctrl-C", patient=True)
    stop.check_finishing()  # who presses Ctrl-C once has time
    stop.request("SIGTERM", patient=False)
    with pytest.raises(StopRequested, match="Ctrl-C"):
        stop.check_finishing()
    assert stop._deadline < math.inf


def test_nothing_is_asked_nothing_is_raised() -> None:
    stop = StopRequest()
    stop.check()
    stop.check_finishing()
    assert not stop.requested


def test_the_second_ctrl_c_ends_at_once() -> None:
    stop = StopRequest()
    with pytest.raises(KeyboardInterrupt), stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_the_third_ctrl_c_leaves_without_asking_anyone() -> None:
    code = """
import os, signal
from metta_train.cli.signals import stop_on_signals
from metta_train.training.stopping import StopRequest
with stop_on_signals(StopRequest()):
    os.kill(os.getpid(), signal.SIGINT)
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop_on_signals(stop):
            os.kill(os.getpid(), number)
        assert not stop.requested
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_outside_of_the_main_thread_nothing_is_taken() -> None:
    entered = []

    def work() -> None:
        with stop_on_signals(StopRequest()):
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]


@pytest.mark.parametrize("rows", [0, 15])
def test_what_ctrl_c_says_stays_above_a_dashboard(rows: int, capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopRequest()
    stop.redrawn_rows = rows
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGINT)
    said = "\nfinishing the update and saving; Ctrl-C again stops now, without saving\n"
    assert capfd.readouterr().err == said + "\n" * rows
