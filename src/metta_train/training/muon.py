"""Muon: momentum whose matrices are made orthogonal before they move the weights.

Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/) with the step size of Muon is Scalable for LLM Training (Liu et al., 2025,
https://arxiv.org/abs/2502.16982, section 2.2).
For a weight W [m, n] with gradient G, momentum B and coefficients a, b, c:

    B <- mu B + (1 - mu) G
    U <- mu B + (1 - mu) G                    (Nesterov)
    X <- U / |U|, transposed if m > n
    X <- (a I + b A + c A^2) X, A = X X^T     five times (Newton-Schulz)
    W <- (1 - lr decay) W - lr 0.2 sqrt(max(m, n)) X

torch.optim.Muon does the same, but always in bfloat16, which most CPUs multiply ten times slower than float32, and it
multiplies the whole matrix in each of the five rounds. On the CPU the rounds here take place among matrices of the
smaller side, 128 x 128 instead of 128 x 1,024 (`_small_rounds`), but where networks compute in bfloat16 and the CPU has
tiles for it: there the rounds do so too. Either way one kernel does the whole step of a matrix (`kernels/muon.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metta_train.policies.kernels.muon import muon_in_small_rounds, muon_in_tiles
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.kernels.products import TILE, multiplies
from metta_train.training.optimizer_threads import ONE_THREAD, OptimizerThreads

# Of the post by Jordan et al.: steep at zero, so that small singular values grow; all end between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Over matrices alone.

    Args:
        parameters: `[m, n]` each, all on one device.
        lr: step size; the root mean square of an update is about 0.2 of it, as AdamW's is.
        momentum: mu, 0..1.
        weight_decay: decoupled, a share per lr.
        bfloat16: multiply in it, on CPUs with tiles for it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._in_tiles = bfloat16 and multiplies(torch.bfloat16)
        assert all(p.dim() == 2 for group in self.param_groups for p in group["params"]), "Muon is for matrices"

    def step(
        self, closure: None = None, *, leave_out: Tensor | None = None, threads: OptimizerThreads = ONE_THREAD
    ) -> None:
        """Move every parameter that has a gradient.

        Args:
            closure: torch's; none is taken.
            leave_out: bool scalar on the device; where it is true nothing changes. Nobody waits to see it.
            threads: share the matrices.
        """
        assert closure is None, "gradients are there already"
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            if leave_out is None and multiplies(torch.float32):
                fitting = sorted((p for p in with_gradient if _suits_kernels(p)), key=nn.Parameter.numel, reverse=True)
                threads.map(partial(self._move_in_kernel, group=group), fitting)
                with_gradient = [p for p in with_gradient if not _suits_kernels(p)]
            alike = [list(same) for _, same in groupby(sorted(with_gradient, key=_shape), key=_shape)]
            parts = [same[part] for same in alike for part in threads.parts(len(same))]
            move = partial(
                self._move,
                lr=group["lr"],
                momentum=group["momentum"],
                weight_decay=group["weight_decay"],
                leave_out=leave_out,
            )
            threads.map(move, parts)

    @torch.no_grad()
    def _move(
        self, alike: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, leave_out: Tensor | None
    ) -> None:
        """Matrices of one shape, together."""
        gradients = torch.stack([p.grad for p in alike if p.grad is not None])
        buffers = [self.state[p]["momentum_buffer"] for p in alike]
        velocities = torch.stack(buffers).lerp_(gradients, 1 - momentum)
        with torch.autocast(gradients.device.type, enabled=False):
            directions = orthogonalized(gradients.lerp(velocities, momentum))
        scale = lr * 0.2 * max(alike[0].shape) ** 0.5
        for parameter, buffer, velocity, direction in zip(alike, buffers, velocities, directions, strict=True):
            moved = (parameter * (1 - lr * weight_decay)).sub_(direction, alpha=scale)
            for old, new in ((parameter, moved), (buffer, velocity)):
                old.copy_(new if leave_out is None else torch.where(leave_out, old, new))

    @torch.no_grad()
    def _move_in_kernel(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """The same for one matrix."""
        assert parameter.grad is not None
        lr, single = group["lr"], np.float32
        tensors = (parameter, parameter.grad.contiguous(), self.state[parameter]["momentum_buffer"])
        in_tiles = self._in_tiles and all(size % TILE == 0 for size in parameter.shape)
        (muon_in_tiles if in_tiles else muon_in_small_rounds)(
            *map(numbers_of, tensors),
            single(group["momentum"]),
            single(1 - lr * group["weight_decay"]),
            single(lr * 0.2 * max(parameter.shape) ** 0.5),
            ROUNDS,
            *map(single, COEFFICIENTS),
            SMALLEST_NORM,
        )


def orthogonalized(matrices: Tensor) -> Tensor:
    """`[K, m, n]` with the same singular vectors; singular values become about 1 (0.7 to 1.2) unless they are tiny."""
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    norms = torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True)
    wide = wide / norms.clamp(min=SMALLEST_NORM)
    # Small rounds need all bits of float32: with TF32, an eigenvalue of 0 that is rounded to below 0 grows for ever.
    wide = _small_rounds(wide) if wide.device.type == "cpu" else _whole_rounds(wide)
    return wide.mT if tall else wide


def _whole_rounds(wide: Tensor) -> Tensor:
    for _ in range(ROUNDS):
        wide = _factor(wide @ wide.mT) @ wide
    return wide


def _small_rounds(wide: Tensor) -> Tensor:
    """All P are polynomials of one symmetric matrix, so they commute: A becomes P A P, and X the product of all P."""
    gram = wide @ wide.mT
    product = factor = _factor(gram)
    for _ in range(ROUNDS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    return product @ wide


def _factor(gram: Tensor) -> Tensor:
    """P = a I + b A + c A^2."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


def _suits_kernels(parameter: Tensor) -> bool:
    return parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.is_contiguous()


def _shape(parameter: Tensor) -> tuple[int, int]:
    rows, columns = parameter.shape
    return rows, columns
