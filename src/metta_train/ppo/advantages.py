"""Generalised advantage estimation with V-trace clips, for segments that contain endings."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Advantages `[S, T]` float32, without gradient.

    next_t  = 0 if terminated_t, else truncation_values_t if truncated_t, else v_{t+1}  (bootstrap_values at the end)
    delta_t = min(ratio_t, rho_clip) * (r_t + gamma * next_t - v_t)
    A_t     = delta_t + gamma * lambda * min(ratio_t, c_clip) * A_{t+1}, without the second term if the episode
              ended at t or t is the last step.

    GAE: https://arxiv.org/abs/1506.02438, equation 16; the clips: https://arxiv.org/abs/1802.01561, section 4.1. A
    step that terminates and truncates counts as terminated.

    Args:
        values: `[S, T]` v_t = V(o_t).
        bootstrap_values: `[S]` value of the observation that follows the last step.
        rewards: `[S, T]` consequence of a_t, as are the next two.
        terminations: `[S, T]` bool.
        truncations: `[S, T]` bool.
        truncation_values: `[S, T]` value of the final observation; read only where truncated.
        ratio: `[S, T]` probability of a_t now / when it was taken; ones before the first update.
        gamma: 0..1 discount per step.
        gae_lambda: 0..1.
        rho_clip: above 0, upper bound of the ratio in delta_t.
        c_clip: above 0, upper bound of the ratio in the trace.
    """
    next_values = torch.cat([values[:, 1:], bootstrap_values.unsqueeze(1)], dim=1)
    # masked_fill and not a product with 0: a value that nobody may read could be infinite.
    next_values = torch.where(truncations, truncation_values, next_values).masked_fill_(terminations, 0.0)
    deltas = ratio.clamp(max=rho_clip) * (rewards + gamma * next_values - values)
    decays = (gamma * gae_lambda * ratio.clamp(max=c_clip)).masked_fill_(terminations | truncations, 0.0)

    # Time-major, so that a step of the scan reads and writes contiguous memory; the deltas become the advantages in
    # place. One operation per step: on the CPU as fast as a doubling scan for small batches and 3 times faster for
    # 8192 segments, whose log2(T) passes do not fit the cache.
    advantages_ts = deltas.t().contiguous()
    steps = advantages_ts.unbind(0)
    for advantage, decay, later in zip(
        reversed(steps[:-1]), reversed(decays.t().contiguous().unbind(0)[:-1]), reversed(steps[1:]), strict=True
    ):
        advantage.addcmul_(decay, later)
    return advantages_ts.t().contiguous()


def normalize_advantages(advantages: Tensor) -> Tensor:
    """(A - mean) / (std + 1e-8) over all elements, std unbiased; needs two elements or more.

    Normalise the whole minibatch before it is split into pieces.
    """
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
