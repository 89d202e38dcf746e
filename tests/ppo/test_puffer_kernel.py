"""PufferLib's kernel and the torch version agree."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from metta_train.ppo import advantages, puffer_kernel

CPU = torch.device("cpu")


def random_rollout(num_segments: int, num_steps: int, ending_rate: float, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(num_segments, num_steps, generator=generator)

    def endings() -> Tensor:
        return torch.rand(num_segments, num_steps, generator=generator) < ending_rate

    return normal(), normal()[:, 0], normal(), endings(), endings(), normal(), (0.5 * normal()).exp()


@pytest.fixture
def fresh_caches() -> Iterator[None]:
    puffer_kernel._load_extension.cache_clear()
    puffer_kernel._answers.cache_clear()
    yield
    puffer_kernel._load_extension.cache_clear()
    puffer_kernel._answers.cache_clear()


@pytest.mark.skipif(not puffer_kernel.available(CPU), reason="pufferlib's compiled extension cannot be loaded here")
@pytest.mark.parametrize("ending_rate", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("num_segments", "num_steps"), [(1, 1), (3, 2), (17, 64)])
@pytest.mark.parametrize(("rho_clip", "c_clip"), [(1.0, 1.0), (2.0, 0.7)])
def test_kernel_and_torch_agree(
    num_segments: int, num_steps: int, ending_rate: float, rho_clip: float, c_clip: float
) -> None:
    arguments = random_rollout(num_segments, num_steps, ending_rate, seed=num_steps)
    settings = {"gamma": 0.977, "gae_lambda": 0.916, "rho_clip": rho_clip, "c_clip": c_clip}
    ours = advantages.compute_advantages(*arguments, **settings)
    theirs = puffer_kernel.compute_advantages(*arguments, **settings)
    assert theirs.shape == ours.shape
    assert theirs.is_contiguous()
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernel_and_torch_agree_on_cuda() -> None:
    device = torch.device("cuda")
    if not puffer_kernel.available(device):
        pytest.skip("pufferlib's extension has no kernel for this GPU")
    arguments = tuple(argument.to(device) for argument in random_rollout(512, 64, 0.05, seed=0))
    settings = {"gamma": 0.977, "gae_lambda": 0.916, "rho_clip": 1.0, "c_clip": 1.0}
    ours = advantages.compute_advantages(*arguments, **settings)
    theirs = puffer_kernel.compute_advantages(*arguments, **settings)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_a_device_without_a_kernel_is_not_available() -> None:
    assert puffer_kernel.available(torch.device("meta")) is False


@pytest.mark.usefixtures("fresh_caches")
def test_missing_package_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puffer_kernel, "find_spec", lambda _: None)
    assert puffer_kernel.available(CPU) is False


@pytest.mark.usefixtures("fresh_caches")
def test_missing_or_broken_extension_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: libtorch_cuda.so: cannot open shared object file")

    monkeypatch.setattr(torch.ops, "load_library", refuse)
    assert puffer_kernel.available(CPU) is False
    puffer_kernel._load_extension.cache_clear()
    monkeypatch.setattr(puffer_kernel.PathFinder, "find_spec", lambda *_: None)
    assert puffer_kernel.available(CPU) is False


def test_loading_leaves_the_process_as_it_is() -> None:
    # In a process of its own: pytest has handlers and filters itself, and other tests import pufferlib's neighbours.
    program = textwrap.dedent("""
        import os, signal, sys, warnings
        import torch
        from metta_train.ppo import puffer_kernel

        def state():
            handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
            return handlers, list(warnings.filters), dict(os.environ), torch.get_num_threads()

        before, modules = state(), set(sys.modules)
        puffer_kernel.available(torch.device("cpu"))
        assert state() == before
        assert not {name for name in set(sys.modules) - modules if name.startswith(("pufferlib", "gymnasium"))}
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
