"""How torch computes in every process of a training: the trainer's and those of its learners."""

from __future__ import annotations

import os

import torch

from metta_train.training.allocator import keep_freed_memory


def set_up_torch(*, deterministic: bool) -> None:
    """For the whole process; `deterministic` as the configuration's `torch_deterministic`."""
    keep_freed_memory()
    torch.set_num_threads(1)  # learners share segments, not operations: see learners/shared_pass.py
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # as convolutions and LSTMs there; the CPU stays exact
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with a fixed workspace
    torch.use_deterministic_algorithms(deterministic)
    # Filling fresh memory costs time, and nothing here reads memory that it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]  # no stub
