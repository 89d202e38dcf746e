"""Signals while gradients are computed: they wait, and nothing breaks."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from metta_train.policies.held_signals import signals_held


def test_a_signal_is_delivered_after_the_block_also_when_the_block_fails():
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(ZeroDivisionError), signals_held():
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            sum(range(1000))
            assert seen == []
            raise ZeroDivisionError
        assert seen == [signal.SIGUSR1]
        assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGUSR1, before)


HAMMERED = """
import os, signal, subprocess, sys, time
import torch
from metta_train.policies.held_signals import signals_held
from metta_train.policies.recurrence import run_lstm
from metta_train.specs.recurrent_state import RecurrentState

torch.set_num_threads(1)
torch.manual_seed(0)
count = 0

def handler(number, frame):
    global count
    count += 1

signal.signal(signal.SIGUSR1, handler)
lstm = torch.nn.LSTM(128, 128, 2, batch_first=True)
inputs, state = torch.randn(12, 16, 128), RecurrentState((torch.zeros(12, 2, 128), torch.zeros(12, 2, 128)))
resets = torch.zeros(12, 16, dtype=torch.bool)
resets[3, 5] = True

def gradients():
    lstm.zero_grad()
    outputs, _ = run_lstm(lstm, inputs, state, resets)
    with signals_held():
        outputs.square().sum().backward()
    return torch.cat([p.grad.flatten() for p in lstm.parameters()])

expected = gradients()
hammer = f"import os,time\\nwhile True: os.kill({os.getpid()}, {int(signal.SIGUSR1)}); time.sleep(0.0005)"
child = subprocess.Popen([sys.executable, "-c", hammer], stderr=subprocess.DEVNULL)
end = time.process_time() + 6
try:
    while time.process_time() < end:
        assert torch.equal(gradients(), expected)
finally:
    child.kill()
print(count)
"""


def test_gradients_of_the_lstm_survive_thousands_of_signals():
    """Without `signals_held` this child dies of a broken heap, mostly within these seconds."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HAMMERED)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100
