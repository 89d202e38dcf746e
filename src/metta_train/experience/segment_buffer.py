"""Preallocated storage of one rollout, and its view as segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metta_train.specs.records import PolicyStep
from metta_train.specs.recurrent_state import RecurrentState


@dataclass(frozen=True, slots=True)
class Segments:
    """S segments of T steps. Step t holds o_t, a_t, and the consequences of a_t (DESIGN, "Time")."""

    observations: Tensor  # [S, T, ...]
    actions: Tensor  # [S, T] int64
    log_probs: Tensor  # [S, T] float32, under the weights that acted
    values: Tensor  # [S, T] float32, under the weights that acted
    rewards: Tensor  # [S, T] float32
    terminations: Tensor  # [S, T] bool: a_t ended the episode for good
    truncations: Tensor  # [S, T] bool: a_t was the last action before a time limit
    truncation_values: Tensor  # [S, T] float32: value of the final observation where truncated, 0 elsewhere
    resets: Tensor  # [S, T] bool: o_t opens an episode
    state: RecurrentState  # S rows: before o_0 is consumed and before its reset is applied
    bootstrap_values: Tensor  # [S] float32: value of the observation that follows the last step of the segment

    @property
    def num_segments(self) -> int:
        return self.actions.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Segments:
        """`function` of every tensor; S comes first in each."""
        return Segments(
            observations=function(self.observations),
            actions=function(self.actions),
            log_probs=function(self.log_probs),
            values=function(self.values),
            rewards=function(self.rewards),
            terminations=function(self.terminations),
            truncations=function(self.truncations),
            truncation_values=function(self.truncation_values),
            resets=function(self.resets),
            state=RecurrentState(tuple(map(function, self.state.tensors))),
            bootstrap_values=function(self.bootstrap_values),
        )

    def part(self, rows: slice) -> Segments:
        """Views of some of them."""
        return self.map(lambda tensor: tensor[rows])

    def select(self, index: Tensor) -> Segments:
        """Copies of the segments `index [N]` (int64), in that order."""
        index = index.to(self.actions.device)
        return self.map(lambda tensor: tensor.index_select(0, index))

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, always in the same order."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return tuple(found)


def torch_dtype(numpy_name: str) -> torch.dtype:
    """Torch's name of a NumPy dtype, e.g. of an observation."""
    return torch.from_numpy(np.empty(0, dtype=numpy_name)).dtype


class SegmentBuffer:
    """Storage `[R, L, ...]` of one rollout of R rows and L steps, cut into R * L / T segments without a copy.

    Rows are stored one after the other, so segment s is part `s % (L / T)` of row `s // (L / T)`. Each rollout writes
    every step of every row in order; `segments` asserts that it did, so nothing of the rollout before can survive.
    The loop allocates nothing and never waits for the device.

    Args:
        rows: R, rows of the vector env.
        steps: L, steps per row in one rollout, a multiple of `horizon`.
        horizon: T, steps per segment.
        observation_shape: shape of one observation.
        observation_dtype: stored as they come, e.g. uint8 tokens.
        state_shapes: shape per row of each tensor of the recurrent state; empty for a policy without memory.
        device: where the storage lives.
    """

    def __init__(
        self,
        rows: int,
        steps: int,
        horizon: int,
        observation_shape: Sequence[int],
        observation_dtype: torch.dtype,
        state_shapes: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        assert rows > 0 and steps > 0 and horizon > 0, f"sizes must be positive, got {rows}, {steps}, {horizon}"
        assert steps % horizon == 0, f"{steps} steps per row are no multiple of the horizon {horizon}"
        self.rows = rows
        self.steps = steps
        self.horizon = horizon
        self.parts = steps // horizon

        def grid(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros((rows, steps, *shape), dtype=dtype, device=device)

        self._observations = grid(observation_dtype, *observation_shape)
        self._actions = grid(torch.int64)
        self._log_probs = grid(torch.float32)
        self._values = grid(torch.float32)
        self._rewards = grid(torch.float32)
        self._terminations = grid(torch.bool)
        self._truncations = grid(torch.bool)
        self._truncation_values = grid(torch.float32)
        self._resets = grid(torch.bool)
        self._states = tuple(
            torch.zeros((rows, self.parts, *shape), dtype=torch.float32, device=device) for shape in state_shapes
        )
        self._bootstrap_values = torch.zeros((rows, self.parts), dtype=torch.float32, device=device)

        # Per row: steps whose state, decision and outcome are stored. Host memory, so checking costs no device wait.
        self._begun = np.zeros(rows, dtype=np.int64)
        self._decided = np.zeros(rows, dtype=np.int64)
        self._completed = np.zeros(rows, dtype=np.int64)

    @property
    def num_segments(self) -> int:
        return self.rows * self.parts

    def begin_segment(self, step: int, rows: slice, state: RecurrentState) -> None:
        """Store the state of `rows` before o_step is consumed and before its reset is applied; `step % T` is 0."""
        assert step % self.horizon == 0, f"step {step} does not open a segment of {self.horizon} steps"
        self._begun[rows] = step + self.horizon
        for stored, tensor in zip(self._states, state.tensors, strict=True):
            stored[rows, step // self.horizon].copy_(tensor)

    def store_decision(
        self, step: int, rows: slice, observations: Tensor, resets: Tensor, policy_step: PolicyStep
    ) -> None:
        """Store o_step, whether it opens an episode, and what the policy did with it.

        Args:
            step: 0..L-1; each row goes through them in order.
            rows: absolute rows, r of them.
            observations: `[r, ...]`.
            resets: `[r]` bool.
            policy_step: r rows; its state belongs to the next step and is not stored here.
        """
        opening = step - step % self.horizon
        assert (self._begun[rows] == opening + self.horizon).all(), f"no state stored for the segment of step {step}"
        assert step == 0 or (self._completed[rows] == step).all(), f"step {step} decided before the outcome of the last"
        self._decided[rows] = step + 1
        self._observations[rows, step].copy_(observations)
        self._resets[rows, step].copy_(resets)
        self._actions[rows, step].copy_(policy_step.actions)
        self._log_probs[rows, step].copy_(policy_step.log_probs)
        self._values[rows, step].copy_(policy_step.values)
        # Most steps have no truncation and so nobody writes this column: clear what the last rollout left.
        self._truncation_values[rows, step].zero_()

    def store_outcome(self, step: int, rows: slice, rewards: Tensor, terminations: Tensor, truncations: Tensor) -> None:
        """Store the consequences `[r]` of the actions that `rows` took at `step`."""
        assert (self._decided[rows] == step + 1).all(), f"outcome of step {step} without its decision"
        self._completed[rows] = step + 1
        self._rewards[rows, step].copy_(rewards)
        self._terminations[rows, step].copy_(terminations)
        self._truncations[rows, step].copy_(truncations)

    def store_truncation_values(self, step: int, row_index: Tensor, values: Tensor) -> None:
        """Store `values [K]` of the final observations of the absolute rows `row_index [K]` truncated at `step`.

        Rows that do not appear keep 0. Call it after `store_decision` of the same step.
        """
        column = self._truncation_values[:, step]
        column.index_copy_(0, row_index.to(column.device), values.to(device=column.device, dtype=column.dtype))

    def segments(self, bootstrap_values: Tensor) -> Segments:
        """The finished rollout as segments: views of the storage, valid until the next rollout starts to write.

        Args:
            bootstrap_values: `[R]` value of the observation that follows the last step of each row.
        """
        for progress in (self._begun, self._decided, self._completed):
            assert (progress == self.steps).all(), f"rollout not complete: {progress.min()} of {self.steps} steps"
        # A segment inside the rollout is followed by the first step of the row's next one, whose value is stored.
        self._bootstrap_values[:, :-1].copy_(self._values[:, self.horizon :: self.horizon])
        self._bootstrap_values[:, -1].copy_(bootstrap_values)
        return Segments(
            observations=self._cut(self._observations),
            actions=self._cut(self._actions),
            log_probs=self._cut(self._log_probs),
            values=self._cut(self._values),
            rewards=self._cut(self._rewards),
            terminations=self._cut(self._terminations),
            truncations=self._cut(self._truncations),
            truncation_values=self._cut(self._truncation_values),
            resets=self._cut(self._resets),
            state=RecurrentState(tuple(tensor.flatten(0, 1) for tensor in self._states)),
            bootstrap_values=self._bootstrap_values.flatten(),
        )

    def _cut(self, tensor: Tensor) -> Tensor:
        return tensor.view(self.num_segments, self.horizon, *tensor.shape[2:])
