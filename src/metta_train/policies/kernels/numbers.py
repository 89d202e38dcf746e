"""What kernels compute with: float32 numbers, which arrays hold as they are or rounded to bfloat16.

Tensors come as `numbers_of` gives them: a bfloat16 one as its 16 bits, which a kernel reads and rounds; between reading
and rounding everything is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from metta_train.policies.kernels.compiled import MATH, inline


def numbers_of(tensor: Tensor) -> NDArray[Any]:
    """The memory of a tensor; that of a bfloat16 tensor as 16-bit numbers."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def get(array: Any, index: int) -> float:
    """array[index] as float32; in kernels alone."""
    raise NotImplementedError


def put(array: Any, index: int, value: Any) -> None:
    """array[index] <- value, rounded if the array is; in kernels alone."""
    raise NotImplementedError


@overload(get, jit_options={"fastmath": MATH})
def _compiled_get(array, index):
    if array.dtype == types.uint16:
        return lambda array, index: np.uint32(np.uint32(array[index]) << np.uint32(16)).view(np.float32)
    return lambda array, index: array[index]


@inline
def bits_of(value):
    """The bfloat16 number nearest to a float32, ties to even, as 16 bits in an uint32."""
    word = np.float32(value).view(np.uint32)
    odd = np.uint32(np.uint32(word >> np.uint32(16)) & np.uint32(1))
    return np.uint32(np.uint32(word + np.uint32(np.uint32(0x7FFF) + odd)) >> np.uint32(16))


@overload(put, jit_options={"fastmath": MATH})
def _compiled_put(array, index, value):
    if array.dtype == types.uint16:

        def put_bits(array, index, value) -> None:
            array[index] = np.uint16(bits_of(value))

        return put_bits

    def put_number(array, index, value) -> None:
        array[index] = value

    return put_number


@inline
def tanh_of(value):
    """A quotient of polynomials, x P(x^2) / Q(x^2), fitted to tanh on [-9, 9]; error at most 4e-7.

    The coefficients are those of the rational minimax fit that Eigen and XLA use for float32.
    """
    limit = np.float32(7.99881172180175781)
    x = -limit if value < -limit else value
    x = limit if x > limit else x
    x2 = x * x
    p = np.float32(-2.76076847742355e-16)
    p = p * x2 + np.float32(2.00018790482477e-13)
    p = p * x2 + np.float32(-8.60467152213735e-11)
    p = p * x2 + np.float32(5.12229709037114e-08)
    p = p * x2 + np.float32(1.48572235717979e-05)
    p = p * x2 + np.float32(6.37261928875436e-04)
    p = p * x2 + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * x2 + np.float32(1.18534705686654e-04)
    q = q * x2 + np.float32(2.26843463243900e-03)
    q = q * x2 + np.float32(4.89352518554385e-03)
    return x * p / q


@inline
def relu_of(value):
    """max(0, value), NaN for NaN."""
    # One variable that keeps or loses its value: Numba makes vector code of this, not of an expression with two ends.
    value = value if not value < np.float32(0) else np.float32(0)
    return value


@inline
def sigmoid_of(value):
    """1 / (1 + exp(-value)); error at most 3e-7."""
    return np.float32(0.5) * tanh_of(np.float32(0.5) * value) + np.float32(0.5)


@inline
def copy_unless(zeroed, source, target) -> None:
    """Target <- source, or zeros."""
    if zeroed:
        for j in range(target.size):
            target[j] = np.float32(0)
    else:
        for j in range(target.size):
            target[j] = source[j]
