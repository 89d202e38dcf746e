"""Matrix products inside of kernels, by the routines that torch's own operations call.

torch.mm of 48 x 128 by 128 x 512 in bfloat16 takes 25 us on a Xeon with AMX, the product itself 4: torch looks up what to
call and packs one of the matrices again. Kernels that multiply in a loop call the routine. For bfloat16 that is what
torch's attention and its compiler multiply small blocks with, for float32 the BLAS that torch brings. torch
promises neither, so `multiplies` looks for them and tries them once. The name of the first holds the types of its
arguments, as C++ names do, so another version of it is not found rather than called wrongly.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from metta_train.policies.kernels.compiled import kernel
from metta_train.policies.kernels.numbers import bits_of, numbers_of

_BRGEMM = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb"
_RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
_COULD_PACK = "_ZN2at6native7cpublas10could_packEN3c1010ScalarTypeE"
_BFLOAT16 = 15  # of c10::ScalarType
_NOT_TRANSPOSED = ord("N")

_size, _address, _bool = types.int64, types.intp, types.uint8
# Rows, columns, inner size; row lengths of left, right and out; whether to add; left, right, out; whether right is packed.
_brgemm = types.ExternalFunction(
    "metta_train_brgemm", types.void(*[_size] * 6, _bool, _address, _address, _address, _bool)
)
_brgemm_release = types.ExternalFunction("metta_train_brgemm_release", types.void(_bool))
# As in Fortran: everything by its address, and matrices column by column.
_sgemm = types.ExternalFunction("metta_train_sgemm", types.void(*[_address] * 13))


@functools.cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether kernels can multiply such matrices on this machine; they must not be called otherwise."""
    names = {torch.bfloat16: (_BRGEMM, _RELEASE, _COULD_PACK), torch.float32: ("sgemm_",)}.get(dtype)
    if names is None:
        return False
    try:
        library = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))))
        addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names]
    except (OSError, AttributeError, StopIteration):
        return False
    if dtype == torch.float32:
        llvm.add_symbol("metta_train_sgemm", addresses[0])
    else:
        could_pack = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_int8)(addresses[2])
        if not could_pack(_BFLOAT16):  # the CPU has no tiles (AMX), and the routine would end the process
            return False
        llvm.add_symbol("metta_train_brgemm", addresses[0])
        llvm.add_symbol("metta_train_brgemm_release", addresses[1])
    return _is_right(dtype)


def packed(*matrices: Tensor, dtype: torch.dtype, transposed: bool = False) -> Tensor:
    """The right-hand side of `multiply`, `[K, N]`, from float32 matrices that stand side by side; K is even.

    In bfloat16 two numbers of a column, one above the other, become neighbours.

    Args:
        matrices: `[K, n]` each, and N is the sum of n; transposed: `[N, k]` each, and K is the sum of k.
        dtype: float32 or bfloat16.
        transposed: whether they are.
    """
    if dtype == torch.float32:
        matrix = torch.cat(matrices, dim=1) if len(matrices) > 1 else matrices[0]
        return (matrix.t() if transposed else matrix).detach().contiguous()
    height, width = matrices[0].shape[0], sum(matrix.shape[1] for matrix in matrices)
    out = torch.empty((width, height) if transposed else (height, width), dtype=dtype)
    pairs = out.view(-1, 2 * out.shape[1]).view(torch.int32).numpy().view(np.uint32)
    first = 0
    for matrix in matrices:
        if transposed:
            end = first + matrix.shape[1] // 2
            _pack_transposed(numbers_of(matrix), pairs[first:end])
        else:
            end = first + matrix.shape[1]
            _pack(numbers_of(matrix), pairs[:, first:end])
        first = end
    return out


def multiply(left, right, out) -> None:  # for Numba alone, see _compiled_multiply
    raise NotImplementedError


def end_of_products(left) -> None:  # for Numba alone, see _compiled_end_of_products
    raise NotImplementedError


@overload(multiply)
def _compiled_multiply(left, right, out):
    """Out [M, N] float32 <- left [M, K] right [K, N], which is `packed`; rows of left and out may lie apart."""
    if left.dtype == types.uint16:

        def multiply_bits(left, right, out) -> None:
            _brgemm(
                left.shape[0], right.shape[1], left.shape[1],
                left.strides[0] // 2, right.shape[1], out.strides[0] // 4,
                0, left.ctypes.data, right.ctypes.data, out.ctypes.data, 1,
            )  # fmt: skip

        return multiply_bits

    def multiply_floats(left, right, out) -> None:
        sizes = np.empty(6, np.int32)
        sizes[0], sizes[1], sizes[2] = right.shape[1], left.shape[0], left.shape[1]
        sizes[3], sizes[4], sizes[5] = right.shape[1], left.strides[0] // 4, out.strides[0] // 4
        factors = np.empty(2, np.float32)
        factors[0], factors[1] = 1, 0
        letter = np.empty(1, np.uint8)
        letter[0] = _NOT_TRANSPOSED
        size, factor, plain = sizes.ctypes.data, factors.ctypes.data, letter.ctypes.data
        _sgemm(
            plain, plain, size, size + 4, size + 8, factor, right.ctypes.data, size + 12,
            left.ctypes.data, size + 16, factor + 4, out.ctypes.data, size + 20,
        )  # fmt: skip

    return multiply_floats


@overload(end_of_products)
def _compiled_end_of_products(left):
    """After the last product of a kernel: gives the tiles of the CPU back, which torch's operations set up too."""
    if left.dtype == types.uint16:
        return lambda left: _brgemm_release(1)
    return lambda left: None


@kernel
def _pack(matrix, pairs) -> None:
    """pairs[k, n] <- the bits of matrix[2 k, n] and, above them, of matrix[2 k + 1, n]."""
    for k in range(pairs.shape[0]):
        low, high, row = matrix[2 * k], matrix[2 * k + 1], pairs[k]
        for n in range(row.size):
            row[n] = bits_of(low[n]) | np.uint32(bits_of(high[n]) << np.uint32(16))


@kernel
def _pack_transposed(matrix, pairs) -> None:
    """pairs[k, n] <- the bits of matrix[n, 2 k] and, above them, of matrix[n, 2 k + 1]."""
    words = np.empty((16, pairs.shape[0]), np.uint32)  # of some rows, so that both sides are read and written in lines
    for first in range(0, pairs.shape[1], 16):
        end = min(first + 16, pairs.shape[1])
        for n in range(first, end):
            row, line = matrix[n], words[n - first]
            for k in range(line.size):
                line[k] = bits_of(row[2 * k]) | np.uint32(bits_of(row[2 * k + 1]) << np.uint32(16))
        for k in range(pairs.shape[0]):
            target = pairs[k, first:end]
            for n in range(target.size):
                target[n] = words[n, k]


@kernel
def _multiply_once(left, right, out) -> None:
    multiply(left, right, out)
    end_of_products(left)


def _is_right(dtype: torch.dtype) -> bool:
    """Whether whole numbers, which no type rounds, come out as they should."""
    left = (torch.arange(5 * 32) % 7 - 3).view(5, 32).to(dtype)
    right = (torch.arange(32 * 64) % 5 - 2).view(32, 64).float()
    out = torch.full((5, 64), torch.nan)
    _multiply_once(numbers_of(left), numbers_of(packed(right, dtype=dtype)), numbers_of(out))
    return torch.equal(out, left.float() @ right)
