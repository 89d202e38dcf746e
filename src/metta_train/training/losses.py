"""The losses of one minibatch, what is reported beside them, and the gradients that go back into the network.

Proximal Policy Optimization Algorithms (Schulman et al., 2017, https://arxiv.org/abs/1707.06347); importance clips of
the advantage from IMPALA (Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, section 4.1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.ppo import advantages as torch_advantages
from metta_train.ppo import puffer_kernel
from metta_train.ppo.advantages import normalize_advantages
from metta_train.ppo.diagnostics import approx_kl, clip_fraction
from metta_train.ppo.losses import clipped_policy_loss, clipped_value_loss, value_loss
from metta_train.specs.records import ActionEvaluation
from metta_train.training.config import PPOConfig, VtraceConfig
from metta_train.training.learners.network_pass import answers_of


class Column(IntEnum):
    """One gradient step's numbers travel as one small tensor, read once per epoch: no sync inside the loop."""

    TOTAL_LOSS = 0
    POLICY_LOSS = 1
    VALUE_LOSS = 2
    ENTROPY = 3
    APPROX_KL = 4
    CLIPFRAC = 5
    IMPORTANCE = 6
    CURRENT_LOGPROBS = 7
    L2_REG_LOSS = 8
    L2_INIT_LOSS = 9
    GRAD_NORM = 10


NUM_MEANS = Column.CURRENT_LOGPROBS + 1  # what the losses know; the gradient step adds the rest


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Of the loss; scalar tensors where the operations are recorded, because they change from epoch to epoch."""

    clip_coef: float | Tensor
    vf_clip_coef: float | Tensor
    ent_coef: float | Tensor


@dataclass(frozen=True, slots=True)
class Minibatch:
    """What a gradient step learns from: m segments of T steps."""

    segments: Segments
    returns: Tensor  # [m, T]
    weights: Tensor  # [m], of the segments' advantages
    coefficients: Coefficients  # of this epoch


class Losses(ABC):
    """Of minibatches, whose actions are evaluated under the present weights."""

    @abstractmethod
    def advantages(self, segments: Segments, ratio: Tensor) -> Tensor:
        """`[S, T]`, for the ratios `[S, T]` of the present weights to those that acted."""

    @abstractmethod
    def __call__(self, minibatch: Minibatch, evaluation: ActionEvaluation) -> tuple[Tensor, ActionEvaluation]:
        """The first `NUM_MEANS` columns, means over the minibatch, and the gradients `[m, T]` of the total loss.

        The evaluation `[m, T]` comes without history.
        """


class DifferentiatedLosses(Losses):
    """By torch, on any device: the formulas of `ppo/`, differentiated by autograd.

    Args:
        ppo: coefficients.
        vtrace: clips of the advantages.
        compiled_advantages: PufferLib's kernel takes the advantages. It goes to the default stream of a CUDA device, so
            it cannot be recorded.
    """

    def __init__(self, ppo: PPOConfig, vtrace: VtraceConfig, *, compiled_advantages: bool = False) -> None:
        self._ppo = ppo
        self._vtrace = vtrace
        self._compute_advantages = (puffer_kernel if compiled_advantages else torch_advantages).compute_advantages

    def advantages(self, segments: Segments, ratio: Tensor) -> Tensor:
        return self._compute_advantages(
            segments.values,
            segments.bootstrap_values,
            segments.rewards,
            segments.terminations,
            segments.truncations,
            segments.truncation_values,
            ratio,
            gamma=self._ppo.gamma,
            gae_lambda=self._ppo.gae_lambda,
            rho_clip=self._vtrace.vtrace_rho_clip,
            c_clip=self._vtrace.vtrace_c_clip,
        )

    def __call__(self, minibatch: Minibatch, evaluation: ActionEvaluation) -> tuple[Tensor, ActionEvaluation]:
        evaluation = ActionEvaluation(*(tensor.detach().requires_grad_() for tensor in answers_of(evaluation)))
        means = self._means(minibatch, evaluation)
        grads = torch.autograd.grad(means[Column.TOTAL_LOSS], answers_of(evaluation))
        return means.detach(), ActionEvaluation(*grads)

    def _means(self, minibatch: Minibatch, evaluation: ActionEvaluation) -> Tensor:
        segments, returns, coefficients = minibatch.segments, minibatch.returns, minibatch.coefficients
        log_probs, old_log_probs = evaluation.log_probs, segments.log_probs
        advantages = self.advantages(segments, (log_probs.detach() - old_log_probs).exp())
        if self._ppo.norm_adv:
            advantages = normalize_advantages(advantages)
        advantages = minibatch.weights.unsqueeze(1) * advantages
        policy_loss = clipped_policy_loss(log_probs, old_log_probs, advantages, coefficients.clip_coef)
        if self._ppo.clip_vloss:
            critic_loss = clipped_value_loss(evaluation.values, segments.values, returns, coefficients.vf_clip_coef)
        else:
            critic_loss = value_loss(evaluation.values, returns)
        entropy = evaluation.entropy.mean()
        total = policy_loss - coefficients.ent_coef * entropy + self._ppo.vf_coef * critic_loss
        with torch.no_grad():
            diagnostics = (
                approx_kl(log_probs, old_log_probs),
                clip_fraction(log_probs, old_log_probs, coefficients.clip_coef),
                (log_probs - old_log_probs).exp().mean(),
                log_probs.mean(),
            )
        return torch.stack([total, policy_loss, critic_loss, entropy, *diagnostics])
