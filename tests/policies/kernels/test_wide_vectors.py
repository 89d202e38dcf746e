"""Kernels take the widest vectors of the CPU, whatever was compiled before them."""

from __future__ import annotations

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest

from metta_train.policies.kernels.compiled import MATH
from metta_train.policies.kernels.wide_vectors import WideVectors

# Its registers of 512 bits are called zmm.
HAS_WIDE_VECTORS = bool(llvm.get_host_cpu_features().get("avx512f"))


def _scaled(source, target):
    for j in range(target.size):
        target[j] = np.float32(3) * source[j]


def _compiled(**options):
    function = numba.njit(fastmath=MATH, error_model="numpy", **options)(_scaled)
    source, target = np.arange(40, dtype=np.float32), np.empty(40, np.float32)
    function(source, target)
    assert np.array_equal(target, 3 * source)
    (signature,) = function.signatures
    return function.inspect_llvm(signature), function.inspect_asm(signature)


def test_a_kernel_says_so_of_itself():
    narrow, _ = _compiled()  # first, as somebody else's code would be
    wide, _ = _compiled(pipeline_class=WideVectors)
    assert "prefer-vector-width" not in narrow
    assert '"prefer-vector-width"="512"' in wide


@pytest.mark.skipif(not HAS_WIDE_VECTORS, reason="this CPU has no vectors of 512 bits")
def test_its_code_has_them():
    assert "zmm" not in _compiled()[1]
    assert "zmm" in _compiled(pipeline_class=WideVectors)[1]
