"""How kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from metta_train.policies.kernels.kernel_cache import KernelCache
from metta_train.policies.kernels.wide_vectors import WideVectors

# Not "nnan" and "ninf": the guard against non-finite numbers must see them.
MATH = {"contract", "arcp", "nsz", "reassoc"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that Python calls with arrays and numbers."""
    compiled: Any = numba.njit(function, fastmath=MATH, error_model="numpy", nogil=True, pipeline_class=WideVectors)
    compiled._cache = KernelCache(function)  # in the place of the one that cache=True makes
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of kernels."""
    return numba.njit(function, fastmath=MATH, error_model="numpy", inline="always")
