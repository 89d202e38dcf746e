"""Messages that arrive within a moment."""

from __future__ import annotations

import threading
import time
from multiprocessing import Pipe

from metta_train.envs import child_process
from metta_train.envs.child_process import arrives_soon


def test_a_message_that_waits_or_comes_in_time_is_seen_and_left_there(monkeypatch):
    ours, theirs = Pipe()
    theirs.send("now")
    assert arrives_soon(ours)
    assert ours.recv() == "now"
    monkeypatch.setattr(child_process, "SPIN_SECONDS", 30.0)
    sender = threading.Timer(0.05, theirs.send, ["later"])
    sender.start()
    assert arrives_soon(ours)
    assert ours.recv() == "later"
    sender.join()


def test_without_a_message_the_look_ends_soon():
    ours, theirs = Pipe()
    begun = time.process_time()
    assert not arrives_soon(ours)
    assert time.process_time() - begun < 0.5
    theirs.close()


def test_the_end_of_the_other_side_is_seen_too():
    ours, theirs = Pipe()
    theirs.close()
    assert arrives_soon(ours)
