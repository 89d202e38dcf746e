"""The losses in one pass over the minibatch, on the CPU.

A minibatch has some thousand numbers, for which 90 operations of torch and their history cost a millisecond: 4 % of an
epoch in bfloat16 (docs/benchmarks.md), during which other processes that learn wait. The formulas of `losses.py` count:
whoever changes them trains with the change, because what is compiled is compared with them first, for numbers of
several sizes. (A change that shows only where nothing is drawn, such as a bound of 1,000, would be missed.)
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.policies.kernels.numbers import numbers_of
from metta_train.policies.kernels.ppo import advantages_of, losses_of
from metta_train.ppo import puffer_kernel
from metta_train.ppo.advantages import normalize_advantages
from metta_train.specs.records import ActionEvaluation
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.config import PPOConfig, VtraceConfig
from metta_train.training.learners.network_pass import answers_of
from metta_train.training.losses import NUM_MEANS, Coefficients, DifferentiatedLosses, Losses, Minibatch

logger = logging.getLogger(__name__)


class CompiledLosses(Losses):
    """See `DifferentiatedLosses`; the coefficients are numbers here."""

    def __init__(self, ppo: PPOConfig, vtrace: VtraceConfig) -> None:
        self._ppo = ppo
        self._trace = (ppo.gamma, ppo.gae_lambda, vtrace.vtrace_rho_clip, vtrace.vtrace_c_clip)

    def advantages(self, segments: Segments, ratio: Tensor) -> Tensor:
        advantages = torch.empty_like(segments.rewards)
        tensors = (
            segments.values,
            segments.bootstrap_values,
            segments.rewards,
            segments.terminations,
            segments.truncations,
            segments.truncation_values,
            ratio,
        )
        advantages_of(*(numbers_of(tensor.contiguous()) for tensor in tensors), *self._trace, numbers_of(advantages))
        return advantages

    def __call__(self, minibatch: Minibatch, evaluation: ActionEvaluation) -> tuple[Tensor, ActionEvaluation]:
        segments, coefficients, log_probs = minibatch.segments, minibatch.coefficients, evaluation.log_probs
        advantages = self.advantages(segments, (log_probs - segments.log_probs).exp_())
        if self._ppo.norm_adv:
            advantages = normalize_advantages(advantages)
        advantages = minibatch.weights.unsqueeze(1) * advantages
        known = (log_probs, segments.log_probs, advantages, evaluation.entropy)
        of_values = (evaluation.values, segments.values, minibatch.returns)
        grads = ActionEvaluation(*(torch.empty_like(log_probs) for _ in range(3)))
        means = torch.empty(NUM_MEANS)
        losses_of(
            *(numbers_of(tensor.contiguous().view(-1)) for tensor in known + of_values),
            coefficients.clip_coef,
            coefficients.vf_clip_coef if self._ppo.clip_vloss else math.inf,
            coefficients.ent_coef,
            self._ppo.vf_coef,
            *(numbers_of(tensor.view(-1)) for tensor in answers_of(grads)),
            numbers_of(means),
        )
        return means, grads


def build_losses(ppo: PPOConfig, vtrace: VtraceConfig, device: torch.device, *, recorded: bool) -> Losses:
    """The fastest that say the same.

    Args:
        ppo: coefficients.
        vtrace: clips of the advantages.
        device: of the minibatches.
        recorded: their operations are recorded.
    """
    # On CUDA one launch instead of one per step of the scan.
    on_device = device.type == "cuda" and not recorded and puffer_kernel.available(device)
    formulas = DifferentiatedLosses(ppo, vtrace, compiled_advantages=on_device)
    if device.type != "cpu" or recorded:
        return formulas
    compiled = CompiledLosses(ppo, vtrace)
    if say_the_same(formulas, compiled):
        return compiled
    logger.warning("losses or advantages were changed: their compiled form is left aside, which takes longer")
    return formulas


def say_the_same(formulas: Losses, compiled: Losses) -> bool:
    """Whether both have the same numbers and gradients for segments with endings of both kinds."""
    for size, spread in ((0.01, 0.01), (1.0, 0.3), (30.0, 2.0)):
        drawn = example(num_segments=8, num_steps=16, seed=0, spread=spread, size=size)
        for one, other in zip(*(numbers_and_gradients(losses, *drawn) for losses in (formulas, compiled)), strict=True):
            if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4, atol=1e-6):
                return False
    return True


def numbers_and_gradients(losses: Losses, minibatch: Minibatch, evaluation: ActionEvaluation) -> tuple[Tensor, ...]:
    """Everything that losses say."""
    means, grads = losses(minibatch, evaluation)
    return means, *answers_of(grads)


def example(
    *, num_segments: int, num_steps: int, seed: int, spread: float, size: float = 1.0
) -> tuple[Minibatch, ActionEvaluation]:
    """Drawn numbers: log-probs have moved by `spread` since the actions were taken; `size` is that of a reward."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_segments, num_steps)

    def drawn(scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def marks() -> Tensor:
        return torch.rand(shape, generator=generator) < 0.1

    segments = Segments(
        observations=torch.zeros(*shape, 1),
        actions=torch.zeros(shape, dtype=torch.int64),
        log_probs=drawn() - 3.0,
        values=drawn(size),
        rewards=drawn(size),
        terminations=marks(),
        truncations=marks(),
        truncation_values=drawn(size),
        resets=marks(),
        state=RecurrentState(()),
        bootstrap_values=drawn(size)[:, 0],
    )
    weights = torch.rand(num_segments, generator=generator) + 0.5
    moved = ActionEvaluation(segments.log_probs + drawn(spread), drawn().abs(), segments.values + drawn(spread * size))
    coefficients = Coefficients(clip_coef=0.2, vf_clip_coef=0.25, ent_coef=0.01)
    return Minibatch(segments, drawn(size), weights, coefficients), moved
