"""Matrix products inside of kernels, by the routines that torch's own operations call.

torch.mm of 48 x 128 by 128 x 512 in bfloat16 takes 25 us on a Xeon with AMX, the product itself 4: torch looks up what
to call and packs one of the matrices again. Kernels that multiply in a loop call the routine. For bfloat16 that is what
torch's attention and its compiler multiply small blocks with, for float32 the BLAS that torch brings. torch promises
neither, so `multiplies` looks for them and tries them once. The name of the first holds the types of its arguments, as
C++ names do: a version with others is not found, rather than called wrongly.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from metta_train.policies.kernels.compiled import inline, kernel
from metta_train.policies.kernels.numbers import bits_of, numbers_of

_BRGEMM = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb"
_RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
_COULD_PACK = "_ZN2at6native7cpublas10could_packEN3c1010ScalarTypeE"
_BFLOAT16 = 15  # of c10::ScalarType
TILE = 32  # rows and columns of a packed bfloat16 matrix come in multiples of it
_NOT_TRANSPOSED = ord("N")

_size, _address, _bool = types.int64, types.intp, types.uint8
# Rows, columns, inner size; row lengths of left, right, out; whether to add; left, right, out; whether right is packed.
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
        found = [getattr(library, name) for name in names]
    except (OSError, AttributeError, StopIteration):
        return False
    if dtype == torch.float32:
        llvm.add_symbol("metta_train_sgemm", _address_of(found[0]))
    else:
        brgemm, release, could_pack = found
        could_pack.restype, could_pack.argtypes = ctypes.c_bool, [ctypes.c_int8]
        if not could_pack(_BFLOAT16):  # the CPU has no tiles (AMX), and the routine would end the process
            return False
        llvm.add_symbol("metta_train_brgemm", _address_of(brgemm))
        llvm.add_symbol("metta_train_brgemm_release", _address_of(release))
    return _is_right(dtype)


def packed(*matrices: Tensor, dtype: torch.dtype, transposed: bool = False) -> Tensor:
    """The right-hand side of `multiply`, [K, N], from float32 matrices that stand side by side.

    Args:
        matrices: `[K, n]` each, and N is the sum of n; transposed: `[N, k]` each, and K is the sum of k. In bfloat16
            K and N, or every k, are multiples of `TILE`.
        dtype: float32 or bfloat16.
        transposed: whether they are.

    Returns:
        float32 `[K, N]`; for bfloat16 int32 `[K / 2, N]`, each with two numbers of a column, the lower one above.
    """
    step = 2 if dtype == torch.bfloat16 else 1
    if step == 1 and not transposed and len(matrices) == 1:
        return matrices[0].detach().contiguous()
    height, width = matrices[0].shape[0], sum(matrix.shape[1] for matrix in matrices)
    inner, columns = (width, height) if transposed else (height, width)
    out = torch.empty(inner // step, columns, dtype=torch.int32 if step == 2 else torch.float32)
    first = 0
    for matrix in matrices:
        if transposed:
            entries = matrix.shape[1] // step
            _place_transposed(numbers_of(matrix), first, entries, out.numpy())
            first += entries
        else:
            _place(numbers_of(matrix), first, out.numpy())
            first += matrix.shape[1]
    return out


@functools.cache
def packer(dtype: torch.dtype, *, transposed: bool = False) -> Callable[..., Tensor]:
    """`packed` with these, always the same function: for `held`."""
    return functools.partial(packed, dtype=dtype, transposed=transposed)


def multiply(left, right, out) -> None:
    """Out [M, N] float32 <- left [M, K] right [K, N], which is `packed`; in kernels alone.

    Rows of left and out may lie apart.
    """
    raise NotImplementedError


def end_of_products(left) -> None:
    """After the last product of a kernel: gives the tiles of the CPU back, which torch's operations set up too."""
    raise NotImplementedError


@overload(multiply)
def _compiled_multiply(left, right, out):
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
    if left.dtype == types.uint16:
        return lambda left: _brgemm_release(1)
    return lambda left: None


def _beside(out, row, k):  # for Numba alone
    raise NotImplementedError


def _below(out, matrix, k, n):  # for Numba alone
    raise NotImplementedError


@inline
def _pair(low, high):
    return np.int32(bits_of(low) | np.uint32(bits_of(high) << np.uint32(16)))


@overload(_beside)
def _compiled_beside(out, row, k):
    """Entry k of a packed row, the first number of a pair in the lower bits."""
    if out.dtype == types.float32:
        return lambda out, row, k: row[k]
    return lambda out, row, k: _pair(row[2 * k], row[2 * k + 1])


@overload(_below)
def _compiled_below(out, matrix, k, n):
    """Entry k of a packed column."""
    if out.dtype == types.float32:
        return lambda out, matrix, k, n: matrix[k, n]
    return lambda out, matrix, k, n: _pair(matrix[2 * k, n], matrix[2 * k + 1, n])


@inline
def pack_rows(matrix, first, out) -> None:
    """For a product with the matrix on the right: out[k, first + n] <- what stands in column n of it."""
    for k in range(out.shape[0]):
        row = out[k, first:]
        for n in range(matrix.shape[1]):
            row[n] = _below(out, matrix, k, n)


@inline
def pack_columns(matrix, first, entries, out) -> None:
    """For one with the transposed matrix: out[first + k, n] <- what stands in row n, which has so many entries."""
    lines = np.empty((16, entries), out.dtype)  # of 16 rows, so that memory is read and written in whole lines
    for begin in range(0, matrix.shape[0], 16):
        end = min(begin + 16, matrix.shape[0])
        for n in range(begin, end):
            row, line = matrix[n], lines[n - begin]
            for k in range(line.size):
                line[k] = _beside(out, row, k)
        for k in range(entries):
            target = out[first + k, begin:end]
            for n in range(target.size):
                target[n] = lines[n, k]


@kernel
def _place(matrix, first, out) -> None:
    pack_rows(matrix, first, out)


@kernel
def _place_transposed(matrix, first, entries, out) -> None:
    pack_columns(matrix, first, entries, out)


@kernel
def _multiply_once(left, right, out) -> None:
    multiply(left, right, out)
    end_of_products(left)


def _address_of(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def _is_right(dtype: torch.dtype) -> bool:
    """Whether whole numbers, which no type rounds, come out as they should."""
    left = (torch.arange(5 * 32) % 7 - 3).view(5, 32).to(dtype)
    right = (torch.arange(32 * 64) % 5 - 2).view(32, 64).float()
    out = torch.full((5, 64), torch.nan)
    _multiply_once(numbers_of(left), numbers_of(packed(right, dtype=dtype)), numbers_of(out))
    return torch.equal(out, left.float() @ right)
