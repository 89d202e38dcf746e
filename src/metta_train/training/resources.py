"""What this process may really use: cores (affinity, cgroup quota) and free memory of the device."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

# A learner takes several hundred MiB, and shares of a minibatch become small.
MOST_THREADS = 8

_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_CGROUP_MEMORY_USED = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True)
class Resources:
    """The device that trains and the means around it.

    Attributes:
        device_type: "cpu" or "cuda".
        cores: CPU cores that this process may use, at least 1.
        threads: that may learn on the CPU: one for each core, or what OMP_NUM_THREADS says.
        bfloat16: whether the CPU multiplies matrices of bfloat16 in hardware; False for GPUs, where it is not measured.
        free_memory: bytes that the rollout buffer may be planned into: of the GPU, or of the host on the CPU.
    """

    device_type: str
    cores: int
    threads: int
    free_memory: int
    bfloat16: bool = False


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one.

    Raises:
        ValueError: a CUDA device was asked for and does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device={name}: this machine has {count} CUDA devices; use device=auto or device=cpu")
    return device


def measure_resources(device: torch.device) -> Resources:
    """Look once, before planning."""
    if device.type == "cuda":
        free_memory, _ = torch.cuda.mem_get_info(device)
    else:
        free_memory = min(psutil.virtual_memory().available, _cgroup_free_memory())
    cores = usable_cores()
    return Resources(
        device_type=device.type,
        cores=cores,
        threads=_allowed_threads(cores),
        free_memory=int(free_memory),
        bfloat16=device.type == "cpu" and _cpu_multiplies_bfloat16(),
    )


def usable_cores() -> int:
    """Cores by affinity mask and, in a container, by the cgroup's quota (rounded up); at least 1."""
    affinity = len(os.sched_getaffinity(0)) if os.name == "posix" and os.uname().sysname == "Linux" else os.cpu_count()
    return max(1, min(affinity or 1, _cgroup_cores()))


def _allowed_threads(cores: int) -> int:
    """The user's word in OMP_NUM_THREADS, as for every parallel program, but never more than the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked) if asked.isdigit() and int(asked) > 0 else MOST_THREADS)


def _cpu_multiplies_bfloat16() -> bool:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _cgroup_cores() -> int:
    try:
        quota, period = _CGROUP_CPU.read_text().split()
    except OSError:
        return os.cpu_count() or 1
    return os.cpu_count() or 1 if quota == "max" else math.ceil(int(quota) / int(period))


def _cgroup_free_memory() -> int:
    try:
        limit = _CGROUP_MEMORY.read_text().strip()
        used = int(_CGROUP_MEMORY_USED.read_text())
    except OSError:
        return 2**62
    return 2**62 if limit == "max" else max(0, int(limit) - used)
