"""How kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import config

from metta_train.policies.kernels.kernel_cache import KernelCache

# Not "nnan" and "ninf": the guard against non-finite numbers must see them.
MATH = {"contract", "arcp", "nsz", "reassoc"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that Python calls with arrays and numbers."""
    compiled: Any = numba.njit(function, fastmath=MATH, error_model="numpy", nogil=True)
    compiled._cache = KernelCache(function)  # in the place of the one that cache=True makes
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of kernels."""
    return numba.njit(function, fastmath=MATH, error_model="numpy", inline="always")


def _use_wide_registers() -> None:
    """Vectors of 512 bits, on CPUs young enough to multiply bfloat16.

    LLVM prefers 256 on every CPU that has both, because the first ones slowed down. For the kernels here 512 is 1.2
    times as fast on a Xeon with AMX (docs/benchmarks.md). Numba has one setting for all that it compiles.
    """
    features = llvm.get_host_cpu_features()
    settings: Any = config  # which has its names from the environment
    if features.get("avx512bf16") and settings.CPU_NAME is None and settings.CPU_FEATURES is None:
        settings.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"


_use_wide_registers()
