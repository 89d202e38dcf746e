"""bfloat16 arithmetic does not depend on what other threads do."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from metta_train.training.optimizer_threads import OptimizerThreads
from metta_train.training.precision import arithmetic, denormals_flushed

CPU = torch.device("cpu")


def gradient_of_a_weight_used_twice(between: Callable[[], None]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(16, 16, generator=generator))
    inputs = torch.randn(2, 64, 16, generator=generator)
    with arithmetic("bf16", CPU):
        first = inputs[0] @ weight
        between()
        second = inputs[1] @ weight
    assert first.dtype == torch.bfloat16
    return torch.autograd.grad((first.float() * inputs[1]).sum() + (second.float() * inputs[0]).sum(), weight)[0]


def test_another_thread_that_leaves_its_block_changes_no_gradient() -> None:
    """autocast's cache is one for all threads: leaving a block empties it for everybody."""

    def in_another_thread() -> None:
        def leave() -> None:
            with arithmetic("bf16", CPU):
                pass

        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()

    alone = gradient_of_a_weight_used_twice(lambda: None)
    assert torch.equal(alone, gradient_of_a_weight_used_twice(in_another_thread))


def test_fp32_leaves_numbers_as_they_are() -> None:
    with arithmetic("fp32", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def halved_smallest() -> float:
    return (torch.tensor([1.2e-38]) * 0.5).item()


def test_denormals_are_zero_where_gradients_are_made_and_nowhere_else() -> None:
    assert halved_smallest() > 0
    with denormals_flushed():
        assert halved_smallest() == 0
    assert halved_smallest() > 0
    assert OptimizerThreads(2).map(lambda _: halved_smallest(), [0, 1]) == [0, 0]
