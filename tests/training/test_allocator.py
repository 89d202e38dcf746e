from __future__ import annotations

import resource
import sys

import pytest
import torch

from metta_train.training.allocator import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_freed_tensor_comes_back_without_page_faults():
    """64 MiB are 16,384 pages, or fewer where the kernel gives large ones."""
    keep_freed_memory()
    for _ in range(5):  # the heap grows to the size that it then keeps
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
