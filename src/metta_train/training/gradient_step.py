"""One gradient step of PPO on a minibatch of segments, with BPTT through their recurrent state.

Proximal Policy Optimization Algorithms (Schulman et al., 2017, https://arxiv.org/abs/1707.06347); importance clips of
the advantage from IMPALA (Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors, clip_weights, l2_init_loss, l2_reg_loss
from metta_train.ppo import advantages as torch_advantages
from metta_train.ppo import puffer_kernel
from metta_train.ppo.advantages import normalize_advantages
from metta_train.ppo.diagnostics import approx_kl, clip_fraction
from metta_train.ppo.losses import clipped_policy_loss, clipped_value_loss, value_loss
from metta_train.specs.records import ActionEvaluation, HyperparameterValues
from metta_train.training.config import PPOConfig, VtraceConfig
from metta_train.training.learners.network_pass import (
    Gradients,
    NetworkInputs,
    NetworkPass,
    answers_of,
    trained_parameters,
)
from metta_train.training.nonfinite import name_nonfinite
from metta_train.training.optimizer_threads import ONE_THREAD, OptimizerThreads
from metta_train.training.optimizers import PolicyOptimizer
from metta_train.training.precision import denormals_flushed
from metta_train.training.recording import Recorder, Recording


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


@dataclass(frozen=True, slots=True)
class _Coefficients:
    """Of the loss; scalar tensors where the operations are recorded, because they change from epoch to epoch."""

    clip_coef: float | Tensor
    vf_clip_coef: float | Tensor
    ent_coef: float | Tensor


class NonFiniteStepError(RuntimeError):
    """A loss or a gradient is not finite; the message names it, and the weights have not moved."""


class GradientStep:
    """Improves a policy by one minibatch; all minibatches have the same size.

    On the CPU every step looks whether its numbers are finite. On CUDA, and where steps are recorded, nothing here
    waits for the device: the optimizer leaves out steps that are not, and whoever reads the epoch's rows sees it.

    Args:
        policy: on its device.
        optimizer: of the policy.
        anchors: of the policy's weights.
        network: takes minibatches through the policy and back.
        ppo: coefficients of the loss.
        vtrace: clips of the advantages.
        clip_range: of the weights, 0 = none.
        threads: share what the optimizer does.
        record: on CUDA, makes one launch of everything up to the gradients.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: PolicyOptimizer,
        anchors: WeightAnchors,
        network: NetworkPass,
        ppo: PPOConfig,
        vtrace: VtraceConfig,
        clip_range: float,
        threads: OptimizerThreads = ONE_THREAD,
        record: Recorder | None = None,
    ) -> None:
        self._policy = policy
        self._optimizer = optimizer
        self._anchors = anchors
        self._network = network
        self._ppo = ppo
        self._vtrace = vtrace
        self._clip_range = clip_range
        self._threads = threads
        self._record = record
        self._recording: Recording | None = None
        self._playing: Sequence[bool] = ()  # parameters whose gradients the recording returns
        device = policy.active_rows.device
        self._looks = device.type == "cpu" and record is None
        # On CUDA one launch instead of one per step. On the CPU torch's version is exact to the bit on every machine,
        # and neither takes a hundredth of an epoch. The kernel goes to the default stream, so it cannot be recorded.
        kernel = device.type == "cuda" and record is None and puffer_kernel.available(device)
        self._compute_advantages = (puffer_kernel if kernel else torch_advantages).compute_advantages
        self._parameters = trained_parameters(policy)
        self._gradients = Gradients(self._parameters)

    @denormals_flushed()
    def __call__(self, minibatch: Segments, returns: Tensor, weights: Tensor, values: HyperparameterValues) -> Tensor:
        """Move the weights; gives back the step's numbers, one for each `Column`.

        Args:
            minibatch: m segments.
            returns: `[m, T]`.
            weights: `[m]`, of the segments' advantages.
            values: the scheduled values.

        Raises:
            NonFiniteStepError: on the CPU.
        """
        means, playing = self._compute(minibatch, returns, weights, values)
        for parameter, view, plays in zip(self._parameters, self._gradients.views, playing, strict=True):
            parameter.grad = view if plays else None
        means[Column.TOTAL_LOSS] += self._regularize(means, values)
        grad_norm = self._grad_norm()
        finite = torch.isfinite(means[Column.TOTAL_LOSS]) & torch.isfinite(grad_norm)
        if self._looks:
            if not bool(finite):
                raise NonFiniteStepError(self._name_of_nonfinite(means))
            self._clip_gradients(grad_norm)
            self._optimizer.step(threads=self._threads)
        else:
            self._clip_gradients(grad_norm)
            self._optimizer.step(leave_out=~finite, threads=self._threads)
        clip_weights(self._policy, self._anchors, self._clip_range)
        return torch.cat([means, grad_norm.reshape(1)])

    def advantages(self, segments: Segments, ratio: Tensor) -> Tensor:
        """`[S, T]`, for the ratios `[S, T]` of the present weights to those that acted."""
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

    def _compute(
        self, minibatch: Segments, returns: Tensor, weights: Tensor, values: HyperparameterValues
    ) -> tuple[Tensor, Sequence[bool]]:
        """The columns before GRAD_NORM, and which parameters play a part; fills the gradients."""
        coefficients = (values.ppo_clip_coef, values.ppo_vf_clip_coef, values.ppo_ent_coef)
        if self._record is None:
            return self._compute_into(self._gradients, minibatch, returns, weights, _Coefficients(*coefficients))
        if self._recording is None:
            self._recording = Recording("the gradient step", self._recorded_gradients(minibatch), self._record)
        # Filled on the device: a copy from ordinary memory could wait.
        numbers = torch.stack([returns.new_full((), coefficient) for coefficient in coefficients])
        means, gradients = self._recording(*minibatch.tensors(), returns, weights, numbers)
        self._gradients.flat.copy_(gradients)
        return means, self._playing

    def _recorded_gradients(self, example: Segments) -> Callable[..., Sequence[Tensor]]:
        def compute(*inputs: Tensor) -> Sequence[Tensor]:
            *tensors, returns, weights, coefficients = inputs
            remaining = iter(tensors)
            minibatch = example.map(lambda _: next(remaining))
            found = Gradients(self._parameters)
            means, self._playing = self._compute_into(
                found, minibatch, returns, weights, _Coefficients(*coefficients.unbind())
            )
            return means, found.flat

        return compute

    def _compute_into(
        self, into: Gradients, minibatch: Segments, returns: Tensor, weights: Tensor, coefficients: _Coefficients
    ) -> tuple[Tensor, Sequence[bool]]:
        said = self._network.forward(NetworkInputs.of(minibatch))
        evaluation = ActionEvaluation(*(tensor.requires_grad_() for tensor in answers_of(said)))
        losses = self._losses(minibatch, evaluation, returns, weights, coefficients)
        grads = torch.autograd.grad(losses[Column.TOTAL_LOSS], answers_of(evaluation))
        return losses.detach(), self._network.backward(ActionEvaluation(*grads), into)

    def _losses(
        self,
        minibatch: Segments,
        evaluation: ActionEvaluation,
        returns: Tensor,
        weights: Tensor,
        coefficients: _Coefficients,
    ) -> Tensor:
        """The columns before GRAD_NORM, means over the minibatch; the total carries the gradient."""
        log_probs, old_log_probs = evaluation.log_probs, minibatch.log_probs
        advantages = self.advantages(minibatch, (log_probs.detach() - old_log_probs).exp())
        if self._ppo.norm_adv:
            advantages = normalize_advantages(advantages)
        advantages = weights.unsqueeze(1) * advantages
        policy_loss = clipped_policy_loss(log_probs, old_log_probs, advantages, coefficients.clip_coef)
        if self._ppo.clip_vloss:
            critic_loss = clipped_value_loss(evaluation.values, minibatch.values, returns, coefficients.vf_clip_coef)
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
        zero = torch.zeros_like(total)
        return torch.stack([total, policy_loss, critic_loss, entropy, *diagnostics, zero, zero])

    def _regularize(self, means: Tensor, values: HyperparameterValues) -> Tensor:
        """Add the gradients of the weight penalties, once per step, and note their values in `means`."""
        total = means.new_zeros(())
        for slot, coefficient, loss in (
            (Column.L2_REG_LOSS, values.ppo_l2_reg_loss_coef, lambda: l2_reg_loss(self._policy)),
            (Column.L2_INIT_LOSS, values.ppo_l2_init_loss_coef, lambda: l2_init_loss(self._policy, self._anchors)),
        ):
            if coefficient > 0:
                penalty = coefficient * loss()
                penalty.backward()
                means[slot] = penalty.detach()
                total = total + penalty.detach()
        return total

    def _grad_norm(self) -> Tensor:
        """Over all parameters, scalar."""
        for parameter, view in zip(self._parameters, self._gradients.views, strict=True):
            if parameter.grad is not None and parameter.grad is not view:  # of a penalty alone
                view.copy_(parameter.grad)
                parameter.grad = view
        return torch.linalg.vector_norm(self._gradients.flat)

    def _clip_gradients(self, norm: Tensor) -> None:
        """torch.nn.utils.clip_grad_norm_ over one tensor, by the norm that was looked at."""
        self._gradients.flat.mul_((self._ppo.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))

    def _name_of_nonfinite(self, means: Tensor) -> str:
        losses = [(Column(column).name.lower(), means[column]) for column in range(1, Column.GRAD_NORM)]
        gradients = [
            (f"the gradient of {name}", parameter.grad)
            for name, parameter in self._policy.named_parameters()
            if parameter.grad is not None
        ]
        total = ("total_loss", means[Column.TOTAL_LOSS])
        return name_nonfinite([*losses, total, *gradients]) or "the norm of the gradients is infinite"
