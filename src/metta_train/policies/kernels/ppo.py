"""The losses of PPO and their gradients; `ppo/` has the formulas."""

from __future__ import annotations

import numpy as np

from metta_train.policies.kernels.compiled import inline, kernel


@inline
def _at_most(value, limit):
    """The smaller one, NaN for NaN."""
    return limit if value > limit else value


@kernel
def advantages_of(
    values,
    bootstrap_values,
    rewards,
    terminations,
    truncations,
    truncation_values,
    ratio,
    gamma,
    gae_lambda,
    rho_clip,
    c_clip,
    advantages,
) -> None:
    """What `ppo.advantages.compute_advantages` returns, into `advantages` [S, T]; the arguments are those there."""
    num_segments, num_steps = values.shape
    discount, decay = np.float32(gamma), np.float32(gamma * gae_lambda)
    rho_limit, c_limit = np.float32(rho_clip), np.float32(c_clip)
    for s in range(num_segments):
        following, later = bootstrap_values[s], np.float32(0)
        for t in range(num_steps - 1, -1, -1):
            if terminations[s, t]:
                following = np.float32(0)
            elif truncations[s, t]:
                following = truncation_values[s, t]
            if terminations[s, t] or truncations[s, t]:
                later = np.float32(0)
            delta = _at_most(ratio[s, t], rho_limit) * (rewards[s, t] + discount * following - values[s, t])
            later = delta + decay * _at_most(ratio[s, t], c_limit) * later
            advantages[s, t] = later
            following = values[s, t]


@kernel
def losses_of(
    log_probs,
    old_log_probs,
    advantages,
    entropies,
    values,
    old_values,
    returns,
    clip_coef,
    vf_clip_coef,
    ent_coef,
    vf_coef,
    grad_log_probs,
    grad_entropies,
    grad_values,
    means,
) -> None:
    """Losses, diagnostics and the gradient of the total loss.

    Args:
        log_probs: float32 [N], under the present weights.
        old_log_probs: float32 [N], under those that acted.
        advantages: float32 [N], normalised and weighted already.
        entropies: float32 [N].
        values: float32 [N], under the present weights.
        old_values: float32 [N], under those that acted.
        returns: float32 [N].
        clip_coef: of the ratio.
        vf_clip_coef: of the values; infinite where they are not clipped.
        ent_coef: of the entropy in the total.
        vf_coef: of the value loss in the total.
        grad_log_probs: float32 [N], filled with the gradient of the total loss.
        grad_entropies: likewise.
        grad_values: likewise.
        means: float32 [8], filled: total, policy and value loss, entropy, approx_kl, clip fraction, ratio, log-prob.
    """
    count = log_probs.size
    clip, value_clip = np.float32(clip_coef), np.float32(vf_clip_coef)
    low, high = np.float32(1.0 - clip_coef), np.float32(1.0 + clip_coef)
    share, value_share = np.float32(1.0 / count), np.float32(vf_coef / count)
    policy_sum = value_sum = entropy_sum = kl_sum = ratio_sum = log_prob_sum = 0.0
    num_clipped = 0
    for n in range(count):
        log_ratio = log_probs[n] - old_log_probs[n]
        ratio, change = np.exp(log_ratio), np.expm1(log_ratio)
        clipped_ratio = low if ratio < low else _at_most(ratio, high)
        loss, clipped_loss = -advantages[n] * ratio, -advantages[n] * clipped_ratio
        # They are equal inside of the bounds, and where they are not, the clipped one has no gradient.
        grad_log_probs[n] = np.float32(0) if clipped_loss > loss else share * loss
        policy_sum += loss if loss > clipped_loss else clipped_loss
        kl_sum += change - log_ratio
        num_clipped += abs(change) > clip
        ratio_sum += ratio
        log_prob_sum += log_probs[n]

        moved = values[n] - old_values[n]
        clipped_move = -value_clip if moved < -value_clip else _at_most(moved, value_clip)
        error, clipped_error = values[n] - returns[n], old_values[n] + clipped_move - returns[n]
        square, clipped_square = error * error, clipped_error * clipped_error
        clipped_slope = clipped_error if moved == clipped_move else np.float32(0)
        if clipped_square > square:
            slope = clipped_slope
        elif square > clipped_square:
            slope = error
        else:  # also NaN; torch.maximum gives each half of the gradient
            slope = np.float32(0.5) * (error + clipped_slope)
        grad_values[n] = value_share * slope
        value_sum += square if square > clipped_square else clipped_square

        grad_entropies[n] = np.float32(-ent_coef / count)
        entropy_sum += entropies[n]
    means[1] = policy_sum / count
    means[2] = 0.5 * value_sum / count
    means[3] = entropy_sum / count
    means[4] = kl_sum / count
    means[5] = num_clipped / count
    means[6] = ratio_sum / count
    means[7] = log_prob_sum / count
    means[0] = means[1] - np.float32(ent_coef) * means[3] + np.float32(vf_coef) * means[2]
