"""Products inside of kernels against torch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metta_train.policies.kernels import products
from metta_train.policies.kernels.compiled import kernel
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.kernels.products import end_of_products, multiplies, multiply, packed

needs_tiles = pytest.mark.skipif(
    not multiplies(torch.bfloat16), reason="this CPU has no tiles to multiply bfloat16 with (AMX)"
)


@kernel
def _multiplied(left, right, out) -> None:
    multiply(left, right, out)
    end_of_products(left)


def product(left, right):
    out = torch.full((left.shape[0], right.shape[1]), torch.nan)
    _multiplied(*map(numbers_of, (left, right, out)))
    return out


def test_torch_brings_products_in_float32():
    """Where it does not, policies compute with torch's operations alone, and slower."""
    assert multiplies(torch.float32)
    assert not multiplies(torch.float64)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 70), inner=st.integers(1, 40), columns=st.integers(1, 40))
def test_in_float32(rows, inner, columns):
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    torch.testing.assert_close(product(left, packed(right, dtype=torch.float32)), left @ right, rtol=1e-4, atol=1e-4)
    turned = packed(right.t().contiguous(), dtype=torch.float32, transposed=True)
    assert torch.equal(turned, right)


@needs_tiles
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 200), inner=st.integers(1, 8), columns=st.integers(1, 20))
def test_in_bfloat16(rows, inner, columns):
    left, right = torch.randn(rows, 32 * inner).bfloat16(), torch.randn(32 * inner, 32 * columns).bfloat16().float()
    expected = left.float() @ right
    torch.testing.assert_close(product(left, packed(right, dtype=torch.bfloat16)), expected, rtol=1e-4, atol=1e-3)
    turned = packed(right.t().contiguous(), dtype=torch.bfloat16, transposed=True)
    torch.testing.assert_close(product(left, turned), expected, rtol=1e-4, atol=1e-3)


@needs_tiles
def test_rows_of_left_may_lie_apart():
    wide, right = torch.randn(50, 96).bfloat16(), torch.randn(32, 64)
    found = product(wide[:, 32:64], packed(right, dtype=torch.bfloat16))
    torch.testing.assert_close(found, wide[:, 32:64].float() @ right.bfloat16().float(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_tiles)])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_side_by_side(dtype, transposed):
    one, other = torch.randn(64, 32), torch.randn(64, 96)
    both = torch.cat([one, other], dim=1)
    assert torch.equal(
        packed(one, other, dtype=dtype, transposed=transposed), packed(both, dtype=dtype, transposed=transposed)
    )


def test_two_numbers_of_a_column_are_neighbours():
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    pairs = [[1.0, 3.0, 2.0, 4.0], [5.0, 7.0, 6.0, 8.0]]
    assert packed(matrix, dtype=torch.bfloat16).view(torch.bfloat16).tolist() == pairs
    turned = packed(matrix.t().contiguous(), dtype=torch.bfloat16, transposed=True)
    assert turned.view(torch.bfloat16).tolist() == pairs


def test_numbers_are_rounded_as_torch_does():
    matrix = torch.cat([torch.randn(2, 5000) * 10.0**exponent for exponent in range(-6, 7)], dim=1)
    expected = matrix.bfloat16().t().reshape(1, -1)
    assert torch.equal(packed(matrix, dtype=torch.bfloat16).view(torch.bfloat16), expected)


def test_a_routine_that_is_missing_or_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch):
    look = multiplies.__wrapped__
    assert look(torch.float32)
    monkeypatch.setattr(products, "_is_right", lambda dtype: False)
    assert not look(torch.float32)
    monkeypatch.undo()
    monkeypatch.setattr(products, "_BRGEMM", "no such name")
    assert not look(torch.bfloat16)
