"""A policy with memory that fails in the process that evaluates an unlucky observation."""

from __future__ import annotations

import os
import signal
import time

from torch import Tensor

from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy

RAISES, EXHAUSTS, DIES, HANGS = 1001.0, 1002.0, 1003.0, 1004.0


class FailingPolicy(SmallRecurrentPolicy):
    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        match observations.max().item():
            case 1001.0:
                raise ZeroDivisionError("an unlucky observation")
            case 1002.0:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 TB")
            case 1003.0:
                os.kill(os.getpid(), signal.SIGKILL)
            case 1004.0:
                time.sleep(60)
        return super().forward(observations, state, resets)
