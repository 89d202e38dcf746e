"""Cores, threads and memory that the process may really use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from metta_train.training import resources
from metta_train.training.resources import MOST_THREADS, choose_device, measure_resources, usable_cores


def test_cores_are_those_of_the_affinity_mask() -> None:
    everything = os.sched_getaffinity(0)
    one = {min(everything)}
    try:
        os.sched_setaffinity(0, one)
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, everything)


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1)])
def test_a_container_quota_limits_the_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(resources, "_CGROUP_CPU", tmp_path / "cpu.max")
    assert usable_cores() == min(cores, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("1000", None), ("", None), ("0", None), ("two", None)])
def test_omp_num_threads_is_respected(asked: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    measured = measure_resources(torch.device("cpu"))
    assert measured.threads == (threads or min(measured.cores, 1000 if asked == "1000" else MOST_THREADS))


def test_container_memory_limits_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "max").write_text("3000000\n")
    (tmp_path / "current").write_text("1000000\n")
    monkeypatch.setattr(resources, "_CGROUP_MEMORY", tmp_path / "max")
    monkeypatch.setattr(resources, "_CGROUP_MEMORY_USED", tmp_path / "current")
    assert measure_resources(torch.device("cpu")).free_memory == 2_000_000


def test_a_missing_cuda_device_is_named() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=rf"device=cuda:{count}: this machine has {count} CUDA devices"):
        choose_device(f"cuda:{count}")
    assert choose_device("cpu") == torch.device("cpu")
