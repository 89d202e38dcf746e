"""Muon beside torch's, and its orthogonal matrices beside the plain iteration in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from metta_train.training import muon
from metta_train.training.muon import COEFFICIENTS, ROUNDS, Muon, _small_rounds, _whole_rounds, orthogonalized
from metta_train.training.optimizer_threads import OptimizerThreads

SHAPES = [(12, 40), (40, 12), (16, 16), (12, 40), (1, 5)]


def plain_iteration(matrix: Tensor) -> Tensor:
    """The slow twin: the formula of the docstring, on the whole matrix in each round."""
    a, b, c = COEFFICIENTS
    wide = matrix.double()
    if wide.shape[0] > wide.shape[1]:
        wide = wide.t()
    wide = wide / wide.norm()
    for _ in range(ROUNDS):
        gram = wide @ wide.t()
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.t() if matrix.shape[0] > matrix.shape[1] else wide


def random_matrix(rows: int, columns: int, seed: int, smallest: float = 1.0) -> Tensor:
    """Its columns shrink down to `smallest`, so that its singular values differ."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * torch.logspace(0, 0, columns).lerp(
        torch.full((columns,), smallest), torch.linspace(0, 1, columns)
    )


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    seed=st.integers(0, 2**20),
    smallest=st.sampled_from([1.0, 1e-2, 1e-5, 0.0]),
)
def test_orthogonalized_equals_the_plain_iteration(rows: int, columns: int, seed: int, smallest: float) -> None:
    matrix = random_matrix(rows, columns, seed, smallest)
    expected = plain_iteration(matrix)
    torch.testing.assert_close(orthogonalized(matrix.unsqueeze(0))[0].double(), expected, atol=2e-3, rtol=0)
    wide = (matrix if rows <= columns else matrix.t()) / matrix.norm()
    on_cuda = _whole_rounds(wide.unsqueeze(0))[0]
    torch.testing.assert_close((on_cuda if rows <= columns else on_cuda.t()).double(), expected, atol=2e-3, rtol=0)


def test_few_bits_are_enough_for_whole_rounds_alone() -> None:
    """Why CUDA, where float32 products may be TF32, does not take the small ones."""
    wide = random_matrix(32, 4, 3) @ random_matrix(4, 64, 4)  # 28 of its 32 singular values are 0
    wide = (wide / wide.norm()).unsqueeze(0)
    with torch.autocast("cpu", torch.bfloat16):
        whole, small = _whole_rounds(wide).float(), _small_rounds(wide).float()
    assert torch.linalg.svdvals(whole).max() < 1.4
    assert torch.linalg.svdvals(small).max() > 5


def test_autocast_around_a_step_does_not_reach_it() -> None:
    def moved(*, autocast: bool) -> Tensor:
        parameter = nn.Parameter(random_matrix(12, 40, 1))
        optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.0)
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        parameter.grad = random_matrix(12, 40, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            optimizer.step()
        return parameter

    assert torch.equal(moved(autocast=True), moved(autocast=False))


def test_singular_values_end_near_one() -> None:
    matrices = torch.stack([random_matrix(8, 32, seed, smallest=0.1) for seed in range(3)])
    for matrix, result in zip(matrices, orthogonalized(matrices), strict=True):
        assert torch.linalg.svdvals(matrix).max() > 4
        assert ((torch.linalg.svdvals(result) > 0.65) & (torch.linalg.svdvals(result) < 1.25)).all()


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(orthogonalized(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


# Multiples of 32 fit into tiles, where the CPU has some.
SHAPES_FOR_TILES = [(32, 96), (96, 32), (64, 64), (160, 32), (30, 64)]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("shapes", "bfloat16"), [(SHAPES, False), (SHAPES_FOR_TILES, False), (SHAPES_FOR_TILES, True)])
def test_equals_torch_muon_up_to_its_bfloat16(
    weight_decay: float, shapes: list[tuple[int, int]], bfloat16: bool
) -> None:
    """torch.optim.Muon is the slow twin: same formulas, rounded to 8 bits in every round."""

    def parameters() -> list[nn.Parameter]:
        return [nn.Parameter(random_matrix(*shape, seed)) for seed, shape in enumerate(shapes)]

    ours, theirs = parameters(), parameters()
    mine = Muon(ours, lr=0.02, momentum=0.9, weight_decay=weight_decay, bfloat16=bfloat16)
    reference = torch.optim.Muon(
        theirs, lr=0.02, momentum=0.9, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    for parameter in ours:
        mine.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    for step in range(3):
        before = [parameter.detach().clone() for parameter in ours]
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            rows, columns = one.shape
            one.grad = random_matrix(rows, columns, 100 * step + index)
            other.grad = random_matrix(rows, columns, 100 * step + index)
        mine.step()
        reference.step()
        for was, one, other in zip(before, ours, theirs, strict=True):
            assert (one - was).norm() > 0.005
            assert 0 < (one - other).norm() < (0.05 if bfloat16 else 0.03) * (one - was).norm()
            torch.testing.assert_close(
                mine.state[one]["momentum_buffer"], reference.state[other]["momentum_buffer"], atol=1e-6, rtol=1e-5
            )
            with torch.no_grad():
                other.copy_(one)  # so that roundings do not add up


def test_a_parameter_without_a_gradient_stays() -> None:
    moved, still = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    optimizer = Muon([moved, still], lr=0.1, momentum=0.9, weight_decay=0.1)
    for parameter in (moved, still):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    moved.grad = torch.ones(3, 4)
    optimizer.step()
    assert not torch.equal(moved, torch.ones(3, 4))
    assert torch.equal(still, torch.ones(3, 4))


@pytest.mark.parametrize("gradient_of_zeros", [False, True])
def test_the_kernel_does_what_the_operations_do(gradient_of_zeros: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are for machines whose torch brings no BLAS that kernels can call."""

    def moved() -> list[Tensor]:
        shapes = [*SHAPES, *SHAPES_FOR_TILES, (5, 1), (130, 70)]
        parameters = [nn.Parameter(random_matrix(*shape, seed)) for seed, shape in enumerate(shapes)]
        optimizer = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
        for seed, parameter in enumerate(parameters):
            optimizer.state[parameter]["momentum_buffer"] = random_matrix(*shapes[seed], 30 + seed)
            parameter.grad = random_matrix(*shapes[seed], 50 + seed, smallest=0.1)
            if gradient_of_zeros:
                parameter.grad.zero_()
                optimizer.state[parameter]["momentum_buffer"].zero_()
        optimizer.step()
        return [*parameters, *(optimizer.state[parameter]["momentum_buffer"] for parameter in parameters)]

    compiled = moved()
    monkeypatch.setattr(muon, "multiplies", lambda dtype: False)
    for one, other in zip(compiled, moved(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_rounds_are_those_of_float32_but_for_its_bits() -> None:
    """Also for a matrix with singular values of 0 and for one of zeros, which small rounds would not survive."""
    poor = random_matrix(32, 4, 3) @ random_matrix(4, 64, 4)
    for gradient in (random_matrix(96, 32, 1, smallest=0.1), poor, torch.zeros(32, 32)):
        moved = []
        for bfloat16 in (False, True):
            parameter = nn.Parameter(torch.zeros(gradient.shape))
            optimizer = Muon([parameter], lr=1.0, momentum=0.9, weight_decay=0.1, bfloat16=bfloat16)
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            parameter.grad = gradient.clone()
            optimizer.step()
            moved.append(parameter.detach())
            assert torch.equal(parameter.grad, gradient)
        assert (moved[0] - moved[1]).norm() <= 0.05 * moved[0].norm()
        assert torch.linalg.svdvals(moved[1]).max() < 1.4 * 0.2 * max(gradient.shape) ** 0.5


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES_FOR_TILES])
def test_threads_share_the_matrices(shapes: list[tuple[int, int]], bfloat16: bool) -> None:
    def moved(threads: OptimizerThreads) -> list[Tensor]:
        parameters = [nn.Parameter(random_matrix(*shape, seed)) for seed, shape in enumerate(shapes)]
        optimizer = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, bfloat16=bfloat16)
        for seed, parameter in enumerate(parameters):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            parameter.grad = random_matrix(*shapes[seed], 50 + seed)
        optimizer.step(threads=threads)
        return [*parameters, *(optimizer.state[parameter]["momentum_buffer"] for parameter in parameters)]

    for one, shared in zip(moved(OptimizerThreads(1)), moved(OptimizerThreads(3)), strict=True):
        torch.testing.assert_close(one, shared)
