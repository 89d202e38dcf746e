"""`compute_advantages` on PufferLib's compiled kernel, for CPU and CUDA."""

from __future__ import annotations

import functools
from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import pad


def available(device: torch.device) -> bool:
    """Whether `compute_advantages` of this module works on `device`; False without the compiled extension."""
    return _load_extension() and _answers(device)


@torch.no_grad()
def compute_advantages(
    values: Tensor,
    bootstrap_values: Tensor,
    rewards: Tensor,
    terminations: Tensor,
    truncations: Tensor,
    truncation_values: Tensor,
    ratio: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    rho_clip: float,
    c_clip: float,
) -> Tensor:
    """As `metta_train.ppo.advantages.compute_advantages`; call it only where `available(device)`.

    The kernel knows neither truncations nor a bootstrap value, and its column t + 1 holds the reward and the done flag
    of action t. So T steps become T + 1 columns: rewards and flags move one to the right, the bootstrap is the last
    value, and a truncation is a done whose reward carries gamma * V(final observation). The kernel leaves its last
    column alone.
    """
    # The kernel is launched on the legacy default stream, whatever stream torch is on.
    assert not values.is_cuda or torch.cuda.current_stream(values.device) == torch.cuda.default_stream(values.device)
    final_values = truncation_values.masked_fill(terminations | ~truncations, 0.0)
    advantages = values.new_zeros((values.shape[0], values.shape[1] + 1))
    # The kernel launches on the current device, which need not be the one of the tensors.
    with torch.cuda.device_of(values):
        torch.ops.pufferlib.compute_puff_advantage(
            torch.cat([values, bootstrap_values.unsqueeze(1)], dim=1),
            pad(rewards + gamma * final_values, (1, 0)),
            pad((terminations | truncations).float(), (1, 0)),
            pad(ratio, (0, 1)),
            advantages,
            gamma,
            gae_lambda,
            rho_clip,
            c_clip,
        )
    return advantages[:, :-1].contiguous()


@functools.cache
def _load_extension() -> bool:
    """Register PufferLib's operators with torch, once."""
    package = find_spec("pufferlib")
    if package is None:
        return False
    # The library is loaded by its path: importing the package would also import gymnasium, which changes the
    # environment variables and the warning filters of the process.
    extension = PathFinder.find_spec("_C", package.submodule_search_locations)
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:  # built for another torch, or a CUDA library is missing
        return False
    return True


@functools.cache
def _answers(device: torch.device) -> bool:
    """Ask the kernel for one advantage: 2 + 0.5 * 4 - 1 = 3."""
    flags = torch.zeros((1, 1), dtype=torch.bool, device=device)
    one = torch.ones((1, 1), device=device)
    try:
        advantages = compute_advantages(
            one,
            torch.full((1,), 4.0, device=device),
            torch.full((1, 1), 2.0, device=device),
            flags,
            flags,
            one,
            one,
            gamma=0.5,
            gae_lambda=1.0,
            rho_clip=1.0,
            c_clip=1.0,
        )
    except RuntimeError:  # no kernel for this kind of device (NotImplementedError), or none for this GPU
        return False
    return advantages.item() == 3.0
