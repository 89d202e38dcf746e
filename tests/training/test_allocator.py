from __future__ import annotations

import sys

import pytest

from tests.cli.command import run_python

# As a gradient step does it: several blocks at once, freed together. Page faults of the last rounds, in thousands.
SCRIPT = """
import resource, torch
from metta_train.training.allocator import keep_freed_memory
{call}
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**20 * k) for k in (1, 2, 3, 4, 5)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults = [step() for _ in range(20)]
print(sum(faults[10:]) // 1000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_blocks_come_back_without_page_faults(tmp_path):
    """10 rounds of 60 MiB are 153,000 pages where freed memory goes back to the kernel."""
    kept = run_python(["-c", SCRIPT.format(call="keep_freed_memory()")], tmp_path)
    given_back = run_python(["-c", SCRIPT.format(call="")], tmp_path)
    assert (kept.code, given_back.code) == (0, 0), kept.err + given_back.err
    assert int(kept.out) * 2 <= int(given_back.out), (kept.out, given_back.out)
