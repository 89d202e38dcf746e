"""One gradient step of PPO on a minibatch of segments, with BPTT through their recurrent state.

`losses.py` has what is minimised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors, clip_weights, l2_init_loss, l2_reg_loss
from metta_train.specs.records import HyperparameterValues
from metta_train.training.compiled_losses import build_losses
from metta_train.training.config import PPOConfig, VtraceConfig
from metta_train.training.learners.network_pass import Gradients, NetworkInputs, NetworkPass, trained_parameters
from metta_train.training.losses import Coefficients, Column, Minibatch
from metta_train.training.nonfinite import name_nonfinite
from metta_train.training.optimizer_threads import ONE_THREAD, OptimizerThreads
from metta_train.training.optimizers import PolicyOptimizer
from metta_train.training.precision import denormals_flushed
from metta_train.training.recording import Recorder, Recording


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
        self._max_grad_norm = ppo.max_grad_norm
        self._clip_range = clip_range
        self._threads = threads
        self._record = record
        self._recording: Recording | None = None
        self._playing: Sequence[bool] = ()  # parameters whose gradients the recording returns
        device = policy.active_rows.device
        self._looks = device.type == "cpu" and record is None
        self._losses = build_losses(ppo, vtrace, device, recorded=record is not None)
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
        self._regularize(means, values)
        grad_norm = self._grad_norm()
        if self._looks:
            if not math.isfinite(means[Column.TOTAL_LOSS].item()) or not math.isfinite(grad_norm.item()):
                raise NonFiniteStepError(self._name_of_nonfinite(means))
            self._clip_gradients(grad_norm)
            self._optimizer.step(threads=self._threads)
        else:
            finite = torch.isfinite(means[Column.TOTAL_LOSS]) & torch.isfinite(grad_norm)
            self._clip_gradients(grad_norm)
            self._optimizer.step(leave_out=~finite, threads=self._threads)
        clip_weights(self._policy, self._anchors, self._clip_range)
        return torch.cat([means, grad_norm.reshape(1)])

    def advantages(self, segments: Segments, ratio: Tensor) -> Tensor:
        """`[S, T]`, for the ratios `[S, T]` of the present weights to those that acted."""
        return self._losses.advantages(segments, ratio)

    def _compute(
        self, minibatch: Segments, returns: Tensor, weights: Tensor, values: HyperparameterValues
    ) -> tuple[Tensor, Sequence[bool]]:
        """The columns before GRAD_NORM, and which parameters play a part; fills the gradients."""
        coefficients = (values.ppo_clip_coef, values.ppo_vf_clip_coef, values.ppo_ent_coef)
        if self._record is None:
            return self._compute_into(self._gradients, minibatch, returns, weights, Coefficients(*coefficients))
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
                found, minibatch, returns, weights, Coefficients(*coefficients.unbind())
            )
            return means, found.flat

        return compute

    def _compute_into(
        self, into: Gradients, minibatch: Segments, returns: Tensor, weights: Tensor, coefficients: Coefficients
    ) -> tuple[Tensor, Sequence[bool]]:
        evaluation = self._network.forward(NetworkInputs.of(minibatch))
        means, grads = self._losses(Minibatch(minibatch, returns, weights, coefficients), evaluation)
        means = torch.cat([means, means.new_zeros(Column.GRAD_NORM - len(means))])
        return means, self._network.backward(grads, into)

    def _regularize(self, means: Tensor, values: HyperparameterValues) -> None:
        """Add the weight penalties, once per step: to the gradients, to the total loss, and to their own columns."""
        for column, coefficient, loss in (
            (Column.L2_REG_LOSS, values.ppo_l2_reg_loss_coef, lambda: l2_reg_loss(self._policy)),
            (Column.L2_INIT_LOSS, values.ppo_l2_init_loss_coef, lambda: l2_init_loss(self._policy, self._anchors)),
        ):
            if coefficient > 0:
                penalty = coefficient * loss()
                penalty.backward()
                means[column] = penalty.detach()
                means[Column.TOTAL_LOSS] += penalty.detach()

    def _grad_norm(self) -> Tensor:
        """Over all parameters, scalar."""
        for parameter, view in zip(self._parameters, self._gradients.views, strict=True):
            if parameter.grad is not None and parameter.grad is not view:  # of a penalty alone
                view.copy_(parameter.grad)
                parameter.grad = view
        return torch.linalg.vector_norm(self._gradients.flat)

    def _clip_gradients(self, norm: Tensor) -> None:
        """torch.nn.utils.clip_grad_norm_ over one tensor, by the norm that was looked at."""
        share = (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        if self._looks and share.item() == 1:  # nothing to do, and that takes a tenth of a millisecond
            return
        self._gradients.flat.mul_(share)

    def _name_of_nonfinite(self, means: Tensor) -> str:
        losses = [(Column(column).name.lower(), means[column]) for column in range(1, Column.GRAD_NORM)]
        gradients = [
            (f"the gradient of {name}", parameter.grad)
            for name, parameter in self._policy.named_parameters()
            if parameter.grad is not None
        ]
        total = ("total_loss", means[Column.TOTAL_LOSS])
        return name_nonfinite([*losses, total, *gradients]) or "the norm of the gradients is infinite"
