"""A minibatch through the network and back: what it says about the stored actions, then the gradients of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from metta_train.experience.segment_buffer import Segments
from metta_train.policies.held_signals import signals_held
from metta_train.policies.policy import Policy
from metta_train.specs.records import ActionEvaluation
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.precision import arithmetic


@dataclass(frozen=True, slots=True)
class NetworkInputs:
    """What the network reads of m segments; see `Segments`."""

    observations: Tensor  # [m, T, ...]
    actions: Tensor  # [m, T]
    resets: Tensor  # [m, T]
    state: RecurrentState  # m rows

    @classmethod
    def of(cls, segments: Segments) -> NetworkInputs:
        return cls(segments.observations, segments.actions, segments.resets, segments.state)

    @property
    def num_segments(self) -> int:
        return self.actions.shape[0]

    def part(self, rows: slice) -> NetworkInputs:
        """Views of some of them."""
        return NetworkInputs(self.observations[rows], self.actions[rows], self.resets[rows], self.state.rows(rows))


class Gradients:
    """Of the trained parameters, one after the other in `flat`, with a view of each.

    Args:
        parameters: in the policy's order, float32.
        flat: `[P]`; zeros without it.
    """

    def __init__(self, parameters: Sequence[Tensor], flat: Tensor | None = None) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        self.flat = parameters[0].new_zeros(sum(sizes)) if flat is None else flat
        shapes = [parameter.shape for parameter in parameters]
        self.views = [part.view(shape) for part, shape in zip(self.flat.split(sizes), shapes, strict=True)]


class NetworkPass(ABC):
    """Every `forward` is followed by one `backward`."""

    @abstractmethod
    def await_start(self) -> None:
        """Wait for the processes that were started for it; the first `forward` does so too."""

    @abstractmethod
    def forward(self, inputs: NetworkInputs) -> ActionEvaluation:
        """The evaluation `[m, T]` of the stored actions; it carries no gradient."""

    @abstractmethod
    def backward(self, grads: ActionEvaluation, into: Gradients) -> Sequence[bool]:
        """Compute the gradients; says of each trained parameter whether it plays a part.

        Args:
            grads: `[m, T]`, of what `forward` returned.
            into: filled; zeros for parameters that play no part.
        """

    @abstractmethod
    def close(self) -> None:
        """End the processes that were started for it; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OwnPass(NetworkPass):
    """In this process.

    Args:
        policy: on its device.
        precision: "fp32" or "bf16".
        piece_segments: with more of them, forward is done twice, the second time in pieces of this size whose
            activations fit into the memory.
    """

    def __init__(self, policy: Policy, precision: str, piece_segments: int) -> None:
        self._policy = policy
        self._precision = precision
        self._piece_segments = piece_segments
        self._parameters = trained_parameters(policy)
        self._evaluated: tuple[NetworkInputs, ActionEvaluation | None] | None = None  # with its graph, if it is kept

    def await_start(self) -> None:
        pass

    def forward(self, inputs: NetworkInputs) -> ActionEvaluation:
        pieces = self._pieces(inputs)
        at_once = len(pieces) == 1
        with torch.set_grad_enabled(at_once):
            found = [self._evaluate(inputs.part(piece)) for piece in pieces]
        self._evaluated = inputs, found[0] if at_once else None
        return joined([detached(evaluation) for evaluation in found])

    def backward(self, grads: ActionEvaluation, into: Gradients) -> Sequence[bool]:
        assert self._evaluated is not None, "backward without a forward"
        (inputs, kept), self._evaluated = self._evaluated, None
        playing = [False] * len(self._parameters)
        for piece in self._pieces(inputs):
            evaluation = self._evaluate(inputs.part(piece)) if kept is None else kept
            found = self._gradients(evaluation, part_of(grads, piece))
            for index, (view, gradient) in enumerate(zip(into.views, found, strict=True)):
                if gradient is not None and playing[index]:
                    view.add_(gradient)
                elif gradient is not None:
                    view.copy_(gradient)
                    playing[index] = True
        for view, plays in zip(into.views, playing, strict=True):
            if not plays:
                view.zero_()
        return playing

    def close(self) -> None:
        pass

    def _pieces(self, inputs: NetworkInputs) -> list[slice]:
        size, total = self._piece_segments, inputs.num_segments
        return [slice(first, min(first + size, total)) for first in range(0, total, size)]

    def _evaluate(self, inputs: NetworkInputs) -> ActionEvaluation:
        with arithmetic(self._precision, inputs.actions.device):
            return self._policy.evaluate_actions(inputs.observations, inputs.actions, inputs.state, inputs.resets)

    def _gradients(self, evaluation: ActionEvaluation, grads: ActionEvaluation) -> Sequence[Tensor | None]:
        pairs = zip(answers_of(evaluation), answers_of(grads), strict=True)
        trained = [(answer, grad) for answer, grad in pairs if answer.requires_grad]
        with signals_held():
            return torch.autograd.grad(
                [answer for answer, _ in trained], self._parameters, [grad for _, grad in trained], allow_unused=True
            )


def trained_parameters(policy: Policy) -> list[torch.nn.Parameter]:
    """Those that need a gradient, in the policy's order."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def answers_of(evaluation: ActionEvaluation) -> tuple[Tensor, Tensor, Tensor]:
    """Its tensors, always in the same order."""
    return evaluation.log_probs, evaluation.entropy, evaluation.values


def joined(parts: Sequence[ActionEvaluation]) -> ActionEvaluation:
    """The segments of all parts in their order."""
    if len(parts) == 1:
        return parts[0]
    return ActionEvaluation(*(torch.cat(tensors) for tensors in zip(*map(answers_of, parts), strict=True)))


def part_of(evaluation: ActionEvaluation, rows: slice) -> ActionEvaluation:
    """Views of some segments."""
    return ActionEvaluation(*(tensor[rows] for tensor in answers_of(evaluation)))


def detached(evaluation: ActionEvaluation) -> ActionEvaluation:
    """Without its gradient."""
    return ActionEvaluation(*(tensor.detach() for tensor in answers_of(evaluation)))
