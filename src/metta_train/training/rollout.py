"""Collect one rollout: every row acts L times, in slices of envs that are in flight together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metta_train.envs.vector import VectorEnv, VectorStep
from metta_train.experience.segment_buffer import SegmentBuffer, Segments, torch_dtype
from metta_train.experience.upload import upload
from metta_train.policies.held_weights import weights_held
from metta_train.policies.policy import Policy
from metta_train.specs.records import EpisodeRecord, PolicyStep, RolloutStats
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.batching import BatchPlan
from metta_train.training.precision import arithmetic
from metta_train.training.recording import Recorder, Recording


@dataclass(frozen=True, slots=True)
class Rollout:
    """What one call of `RolloutCollector.collect` brings."""

    segments: Segments
    stats: RolloutStats
    seconds: float
    env_seconds: float  # part of seconds: sending actions and waiting for envs


@dataclass(frozen=True, slots=True)
class RowMemory:
    """What is carried from the end of one rollout to the start of the next, besides the envs."""

    resets: Tensor  # [R] bool: the next observation opens an episode
    state: RecurrentState  # R rows, before that observation is consumed


@dataclass(frozen=True, slots=True)
class RolloutStart:
    """Where the first rollout of a continued run begins."""

    observations: NDArray[np.generic]  # [R, ...] of the next decision; owned by the env
    memory: RowMemory


@dataclass(slots=True)
class _Slice:
    """Where one slice of envs stands between two decisions."""

    rows: slice
    observations: NDArray[np.generic]  # of the next decision; owned by the env, valid until the next send
    resets: Tensor  # [r] bool: the observation opens an episode
    state: RecurrentState  # before the observation is consumed
    recording: Recording | None  # of its decisions


class RolloutCollector:
    """Keeps the envs' side of the loop from one rollout to the next: observations, resets and recurrent states.

    Recurrent state is carried over rollout ends; it is zeroed where an episode opens and nowhere else.

    Args:
        env: reset here, unless there is a `start`.
        policy: on `device`.
        buffer: of the env's rows.
        device: of policy and buffer.
        generator: draws the actions.
        precision: "fp32" or "bf16".
        start: where a continued run stands.
        check: called before every step; what it raises abandons the rollout.
        record: on CUDA, makes one launch of every decision.
    """

    def __init__(
        self,
        env: VectorEnv,
        policy: Policy,
        buffer: SegmentBuffer,
        device: torch.device,
        generator: torch.Generator,
        precision: str,
        start: RolloutStart | None = None,
        check: Callable[[], None] = lambda: None,
        record: Recorder | None = None,
    ) -> None:
        self._env = env
        self._check = check
        self._policy = policy
        self._buffer = buffer
        self._generator = generator
        self._device = device
        self._precision = precision
        self._env_seconds = 0.0
        if start is None:
            opening = torch.ones(env.num_rows, dtype=torch.bool, device=device)
            start = RolloutStart(env.reset(), RowMemory(opening, policy.initial_state(env.num_rows, device)))
        self._slices = [
            _Slice(
                rows=rows,
                observations=start.observations[rows],
                resets=start.memory.resets[rows],
                state=start.memory.state.rows(rows),
                recording=None if record is None else Recording("a decision", self._act_recorded, record, [generator]),
            )
            for rows in (env.slice_rows(i) for i in range(env.num_slices))
        ]

    def memory(self) -> RowMemory:
        """A copy of what the next rollout starts with; not during a rollout."""
        states = [part.state.tensors for part in self._slices]
        return RowMemory(
            resets=torch.cat([part.resets for part in self._slices]),
            state=RecurrentState(tuple(torch.cat(tensors) for tensors in zip(*states, strict=True))),
        )

    def forget_nonfinite(self) -> None:
        """Zero the recurrent state of rows in which a number is not finite: it would stay until the episode ends."""
        for part in self._slices:
            for tensor in part.state.tensors:
                wrong = ~torch.isfinite(tensor.flatten(1)).all(dim=1)
                part.state = part.state.zero_where(wrong)

    def collect(self) -> Rollout:
        """Fill the buffer once. Blocks until every env has answered the last action."""
        started = perf_counter()
        restarts = self._env.restarts
        self._env_seconds = 0.0
        # One context for all steps: the weights are cast once.
        with torch.inference_mode(), arithmetic(self._precision, self._device), weights_held():
            episodes = self._act_and_receive()
            last, bootstrap_values = self._receive_last()
        # Outside of inference mode, so that what is trained on are ordinary tensors.
        segments = self._buffer.segments(bootstrap_values.clone())
        return Rollout(
            segments=segments,
            stats=_rollout_stats(segments, episodes + last, self._env.restarts - restarts),
            seconds=perf_counter() - started,
            env_seconds=self._env_seconds,
        )

    def _act_and_receive(self) -> list[EpisodeRecord]:
        """All steps, but for what the last actions lead to."""
        episodes: list[EpisodeRecord] = []
        for step in range(self._buffer.steps):
            self._check()
            for index in range(len(self._slices)):
                if step > 0:
                    episodes += self._receive(index, step - 1)
                self._decide(index, step)
        return episodes

    def _receive_last(self) -> tuple[list[EpisodeRecord], Tensor]:
        """What the last actions led to, and the values [R] of the observations after them."""
        episodes: list[EpisodeRecord] = []
        values = []
        for index, part in enumerate(self._slices):
            episodes += self._receive(index, self._buffer.steps - 1)
            values.append(self._values(self._to_device(part.observations), part.state, part.resets))
        return episodes, torch.cat(values)

    def _decide(self, index: int, step: int) -> None:
        part = self._slices[index]
        if step % self._buffer.horizon == 0:
            self._buffer.begin_segment(step, part.rows, part.state)
        observations = self._to_device(part.observations)
        act = self._act if part.recording is None else part.recording
        actions, log_probs, values, *state = act(observations, part.resets, *part.state.tensors)
        decision = PolicyStep(actions, log_probs, values, RecurrentState(tuple(state)))
        self._buffer.store_decision(step, part.rows, observations, part.resets, decision)
        part.state = decision.state
        actions = decision.actions.cpu().numpy()
        sent = perf_counter()
        self._env.send(index, actions)
        self._env_seconds += perf_counter() - sent

    def _act(self, observations: Tensor, resets: Tensor, *state: Tensor) -> Sequence[Tensor]:
        """Actions, log-probs, values and the state after them; tensors only, so that it can be recorded."""
        step = self._policy.act(observations, RecurrentState(state), resets, self._generator)
        return step.actions, step.log_probs, step.values, *step.state.tensors

    def _act_recorded(self, *inputs: Tensor) -> Sequence[Tensor]:
        # A recording casts the weights of the moment in which it is played.
        with arithmetic(self._precision, self._device):
            return self._act(*inputs)

    def _receive(self, index: int, step: int) -> tuple[EpisodeRecord, ...]:
        part = self._slices[index]
        asked = perf_counter()
        result = self._env.receive(index)
        self._env_seconds += perf_counter() - asked
        terminations = self._to_device(result.terminations)
        truncations = self._to_device(result.truncations)
        self._buffer.store_outcome(step, part.rows, self._to_device(result.rewards), terminations, truncations)
        if result.final_rows.size:
            self._store_final_values(part, step, result)
        part.observations = result.observations
        part.resets = terminations | truncations
        return result.episodes

    def _store_final_values(self, part: _Slice, step: int, result: VectorStep) -> None:
        """V(final observation) with the state of that moment, for the rows whose episode was cut by a time limit."""
        local = result.final_rows - part.rows.start
        cut = result.truncations[local] & ~result.terminations[local]
        if not cut.any():
            return
        rows = self._to_device(local[cut])
        values = self._values(
            self._to_device(result.final_observations[cut]),
            part.state.rows(rows),
            torch.zeros(len(rows), dtype=torch.bool, device=self._device),
        )
        self._buffer.store_truncation_values(step, rows + part.rows.start, values)

    def _values(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> Tensor:
        return self._policy(observations.unsqueeze(1), state, resets.unsqueeze(1)).values.squeeze(1)

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        # The envs write into this memory again after the next send.
        return upload(torch.from_numpy(array), self._device)


def build_collector(
    env: VectorEnv,
    policy: Policy,
    plan: BatchPlan,
    generator: torch.Generator,
    start: RolloutStart | None = None,
    check: Callable[[], None] = lambda: None,
    record: Recorder | None = None,
) -> RolloutCollector:
    """The collector of the plan's rollouts, with a buffer on the policy's device."""
    device, observation = policy.active_rows.device, policy.spec.observation
    buffer = SegmentBuffer(
        plan.rows,
        plan.steps,
        plan.bptt_horizon,
        observation.shape,
        torch_dtype(observation.dtype),
        policy.state_shapes,
        device,
    )
    return RolloutCollector(env, policy, buffer, device, generator, plan.precision, start, check, record)


def _rollout_stats(segments: Segments, episodes: list[EpisodeRecord], worker_restarts: int) -> RolloutStats:
    actions = segments.actions.float()
    means = torch.stack(
        [
            segments.rewards.mean(),
            segments.values.mean(),
            segments.log_probs.mean(),
            segments.terminations.float().mean(),
            segments.truncations.float().mean(),
            actions.mean(),
            actions.std(),
        ]
    ).tolist()
    rewards, values, log_probs, terminations, truncations, actions_mean, actions_std = means
    return RolloutStats(
        agent_steps=segments.rewards.numel(),
        rewards=rewards,
        values=values,
        log_probs=log_probs,
        terminations=terminations,
        truncations=truncations,
        actions_mean=actions_mean,
        actions_std=actions_std,
        episodes=tuple(episodes),
        worker_restarts=worker_restarts,
    )
