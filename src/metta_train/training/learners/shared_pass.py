"""Learner processes that share the segments of every minibatch with the trainer.

torch's threads share every single operation and meet after each. The operations of these networks are small, so the
meetings cost much, and on cores that others use too every one of them waits for whoever was interrupted. Threads of
Python that each take some segments through the whole network meet rarely, but wait for Python's lock: on two cores
the second one is worth a sixth. Processes have nothing to wait for but each other, twice per gradient step
(docs/benchmarks.md, "Threads").
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from metta_train.envs.child_process import ChildFaultError, ChildProcess, stop_children
from metta_train.envs.shared_block import SharedBlock
from metta_train.envs.vector import WorkerError
from metta_train.policies.policy import Policy
from metta_train.specs.records import ActionEvaluation
from metta_train.training.learners.learner_memory import LearnerMemory, move_weights, weights_bytes
from metta_train.training.learners.messages import (
    Backward,
    Differentiated,
    Evaluated,
    Forward,
    LearnerPlan,
    PolicyRecipe,
    Ready,
)
from metta_train.training.learners.network_pass import (
    Gradients,
    NetworkInputs,
    NetworkPass,
    OwnPass,
    answers_of,
    joined,
    part_of,
)

_Answer = TypeVar("_Answer", Ready, Evaluated, Differentiated)

# Nothing foreign runs in a learner, so it answers unless somebody stopped it; starting on a busy machine takes longest.
ANSWER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Learner:
    number: int
    child: ChildProcess
    rows: slice  # of a minibatch
    memory: LearnerMemory


class SharedPass(NetworkPass):
    """The trainer takes the first segments, every learner process a share of the rest.

    Gradients are added in the order of the shares, so results do not depend on who is faster. From here on the
    parameters of `policy` live in shared memory; optimizers move them where they are.

    Args:
        policy: on the CPU.
        recipe: builds a policy like it.
        shares: segments of the trainer's and of each learner's share of a minibatch.
        horizon: steps of a segment.
        precision: "fp32" or "bf16".
        piece_segments: of each, see `OwnPass`.
        check: called while waiting; what it raises abandons the pass, after which there can be no other.
    """

    def __init__(
        self,
        policy: Policy,
        recipe: PolicyRecipe,
        *,
        shares: Sequence[int],
        horizon: int,
        precision: str,
        piece_segments: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        ends = list(itertools.accumulate(shares))
        self._own_rows = slice(0, ends[0])
        self._own = OwnPass(policy, precision, piece_segments)
        self._shapes = tuple((name, tuple(p.shape)) for name, p in policy.named_parameters())
        self._check = check
        self._learners: list[_Learner] = []
        self._starting = True
        # Also runs when the pass is dropped without `close`, and at the end of the interpreter.
        self._stop = weakref.finalize(self, _stop_learners, self._learners)
        weights = SharedBlock(weights_bytes(policy))
        move_weights(policy, weights.memory, fill=True)
        try:
            for number, (first, end) in enumerate(itertools.pairwise(ends), start=1):
                segments = end - first
                block = SharedBlock(LearnerMemory.num_bytes(policy, segments, horizon))
                child = ChildProcess.start("metta_train.training.learners.process", [weights, block])
                block.close_descriptor()
                memory = LearnerMemory.over(block.memory, policy, segments, horizon)
                learner = _Learner(number, child, slice(first, end), memory)
                self._learners.append(learner)
                deterministic = torch.are_deterministic_algorithms_enabled()
                self._tell(learner, LearnerPlan(recipe, precision, segments, horizon, piece_segments, deterministic))
        except BaseException:
            self.close()
            raise
        finally:
            weights.close_descriptor()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the learners."""
        return tuple(learner.child.process.pid for learner in self._learners)

    def await_start(self) -> None:
        if self._starting:
            for learner in self._learners:
                ready = self._await(learner, Ready)
                if ready.shapes != self._shapes:
                    raise _error(learner, "built another policy than the trainer; did its files change?")
            self._starting = False

    def forward(self, inputs: NetworkInputs) -> ActionEvaluation:
        self.await_start()
        for learner in self._learners:
            share, memory = inputs.part(learner.rows), learner.memory.inputs
            for place, tensor in (
                (memory.observations, share.observations),
                (memory.actions, share.actions),
                (memory.resets, share.resets),
                *zip(memory.state.tensors, share.state.tensors, strict=True),
            ):
                place.copy_(tensor)
            self._tell(learner, Forward())
        found = [self._own.forward(inputs.part(self._own_rows))]
        for learner in self._learners:
            self._await(learner, Evaluated)
            found.append(learner.memory.evaluation)
        return joined(found)

    def backward(self, grads: ActionEvaluation, into: Gradients) -> Sequence[bool]:
        for learner in self._learners:
            share = part_of(grads, learner.rows)
            for place, tensor in zip(answers_of(learner.memory.grads), answers_of(share), strict=True):
                place.copy_(tensor)
            self._tell(learner, Backward())
        playing = self._own.backward(part_of(grads, self._own_rows), into)
        for learner in self._learners:
            others = self._await(learner, Differentiated).playing
            into.flat.add_(learner.memory.gradients.flat)
            playing = [own or other for own, other in zip(playing, others, strict=True)]
        return playing

    def close(self) -> None:
        self._stop()

    def _tell(self, learner: _Learner, message: LearnerPlan | Forward | Backward) -> None:
        assert self._stop.alive, "the learners have ended"
        try:
            learner.child.tell(message)
        except ChildFaultError as fault:
            raise _error_of(learner, fault) from None

    def _await(self, learner: _Learner, kind: type[_Answer]) -> _Answer:
        try:
            answer = learner.child.hear_within(ANSWER_SECONDS, self._check)
        except ChildFaultError as fault:
            raise _error_of(learner, fault) from None
        except TimeoutError:
            raise _error(learner, f"did not answer within {ANSWER_SECONDS:g} seconds") from None
        assert isinstance(answer, kind), answer
        return answer


def _error_of(learner: _Learner, fault: ChildFaultError) -> Exception:
    if fault.memory_exhausted is not None:
        return MemoryError(f"learner {learner.number}: {fault.memory_exhausted}")
    return _error(learner, str(fault))


def _error(learner: _Learner, what: str) -> WorkerError:
    return WorkerError(f"learner {learner.number} (pid {learner.child.process.pid}) {what}")


def _stop_learners(learners: Sequence[_Learner]) -> None:
    stop_children([learner.child for learner in learners])
