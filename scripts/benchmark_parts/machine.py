"""What the numbers were measured on, without names of hosts or paths."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch

from metta_train.training.resources import usable_cores

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe_machine() -> dict[str, object]:
    """Cores, CPU, its flags that matter here, GPU, versions and load."""
    cpu = _cpu_info()
    return {
        "cores": usable_cores(),
        "cpu": cpu.get("model name", platform.machine()),
        "flags": [flag for flag in FLAGS if flag in cpu.get("flags", "").split()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "load before the start": round(os.getloadavg()[0], 1),
    }


def matmul_rate(dtype: torch.dtype = torch.float32, size: int = 1024, seconds: float = 0.5) -> float:
    """GFLOP/s of square matrix products: the best of those that fit into `seconds`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        product = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e9)
        del product
    return best


def _cpu_info() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return {}
    first = file.read_text().split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
