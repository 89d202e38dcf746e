"""Resolve `batch_size`, `minibatch_size`, `num_envs`, `num_workers` and `precision` from device, spec and each other.

The one rule behind all sizes: nothing is collected and thrown away. Every row collects the same number of steps L,
L is a multiple of `bptt_horizon`, and minibatches are made of whole segments:

    rows R = num_envs * num_agents        batch_size = R * L        segments S = batch_size / bptt_horizon
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metta_train.experience.segment_buffer import torch_dtype
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation
from metta_train.training.config import TrainerConfig
from metta_train.training.resources import Resources

# `minibatch_size: auto` takes the original's 16384 agent steps where the batch is large enough, and at least this many
# gradient steps per update epoch where it is not.
AUTO_MINIBATCH = 16384
AUTO_MINIBATCHES = 4
# Groups of envs in flight: one is stepped while the policy decides for the other. Without workers there is nobody to
# step one meanwhile, so all rows are decided at once; the rows are as many, so that every machine learns alike.
AUTO_SLICES = 2
# Agent steps times parameters of a share of a minibatch; fewer are not worth a process of their own and its memory.
# 384 steps of agent=fast are enough; agent=mlp learns faster without help (docs/benchmarks.md).
LEAST_SHARE = 200_000_000
# Share of the free memory that the rollout buffer may take; activations and the optimizer need the rest.
BUFFER_SHARE = 0.5
# Bytes per agent step beside the observation: action, log-prob, value, reward, final value, three flags.
BYTES_PER_STEP = 8 + 4 * 4 + 3


class MemoryExhaustedError(RuntimeError):
    """The device or the machine has no memory left; the message names what to make smaller."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Sizes that fit together; the amounts are agent steps unless they say otherwise."""

    num_envs: int
    num_workers: int  # 0 = in process
    num_slices: int  # env groups in flight
    rows: int
    steps: int  # L, per row and rollout
    bptt_horizon: int
    batch_size: int
    minibatch_size: int
    max_minibatch_size: int  # forward and backward run on pieces of this size
    precision: str  # fp32 or bf16
    threads: int  # of the optimizer
    learners: int  # processes that share a minibatch, the trainer among them

    @property
    def segments(self) -> int:
        return self.batch_size // self.bptt_horizon

    @property
    def minibatch_segments(self) -> int:
        return self.minibatch_size // self.bptt_horizon

    @property
    def piece_segments(self) -> int:
        return self.max_minibatch_size // self.bptt_horizon

    @property
    def num_minibatches(self) -> int:
        """Gradient steps per update epoch."""
        return self.segments // self.minibatch_segments

    def when_memory_is_exhausted(self, reason: str) -> str:
        """The knobs that take memory, with their present values."""
        return (
            f"out of memory ({reason}). Make one of these smaller: "
            f"trainer.max_minibatch_size={self.max_minibatch_size} (splits gradient steps; the same up to rounding), "
            f"trainer.minibatch_size={self.minibatch_size}, trainer.batch_size={self.batch_size}, "
            f"trainer.num_envs={self.num_envs}, trainer.bptt_horizon={self.bptt_horizon}. "
            "The last checkpoint is untouched; the same command goes on from it"
        )

    def describe(self) -> str:
        """One line for the log."""
        workers, slices = _counted(self.num_workers, "worker"), _counted(self.num_slices, "slice")
        where = "in process" if self.num_workers == 0 else f"in {workers}, {slices}"
        pieces = self.minibatch_size // self.max_minibatch_size
        accumulation = "" if pieces == 1 else f" in {pieces} pieces"
        learners = "1 process learns" if self.learners == 1 else f"{self.learners} processes learn"
        return (
            f"{_counted(self.num_envs, 'env')} {where} = {self.rows} rows x {self.steps} steps = {self.batch_size} "
            f"agent steps per epoch; {self.segments} segments of {self.bptt_horizon}; "
            f"{_counted(self.num_minibatches, 'minibatch', 'minibatches')} of "
            f"{self.minibatch_size}{accumulation}; {self.precision}, {learners}"
        )


def _counted(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def plan_batches(config: TrainerConfig, spec: EnvironmentSpec, resources: Resources, parameters: int = 0) -> BatchPlan:
    """The only place where sizes are decided.

    Args:
        config: what was asked for.
        spec: of the environment.
        resources: of the machine.
        parameters: trained numbers of the policy; several processes share a minibatch of a large one.

    Raises:
        ValueError: sizes that do not fit together, with the numbers that would.
    """
    num_workers, num_slices = _plan_workers(config, spec, resources)
    group = _group(num_workers, num_slices)
    num_envs = _plan_num_envs(config, spec, num_slices, group)
    rows = num_envs * spec.num_agents
    batch_size = _plan_batch_size(config, spec, num_envs)
    minibatch_size = _plan_minibatch_size(config, batch_size)
    max_minibatch_size = _plan_pieces(config, minibatch_size)
    threads = 1 if resources.device_type == "cuda" else resources.threads
    _check_memory(spec, batch_size, config.bptt_horizon, rows, resources)
    return BatchPlan(
        num_envs=num_envs,
        num_workers=num_workers,
        num_slices=num_slices,
        rows=rows,
        steps=batch_size // rows,
        bptt_horizon=config.bptt_horizon,
        batch_size=batch_size,
        minibatch_size=minibatch_size,
        max_minibatch_size=max_minibatch_size,
        precision=_plan_precision(config, spec, resources),
        threads=threads,
        learners=max(
            1, min(threads, minibatch_size * parameters // LEAST_SHARE, minibatch_size // config.bptt_horizon)
        ),
    )


def _plan_precision(config: TrainerConfig, spec: EnvironmentSpec, resources: Resources) -> Literal["fp32", "bf16"]:
    """bf16 for token networks where the CPU has it: a third faster, and it learns as well (docs/benchmarks.md).

    The small networks of box observations would spend more on conversions than they gain.
    """
    if config.precision != "auto":
        return config.precision
    return "bf16" if resources.bfloat16 and isinstance(spec.observation, TokenObservation) else "fp32"


def _plan_workers(config: TrainerConfig, spec: EnvironmentSpec, resources: Resources) -> tuple[int, int]:
    """Workers and slices. On the CPU half of the cores step envs; while the others learn, they have nothing to do.

    What is left to us shares out evenly what was asked for: with fewer workers, or else one slice.
    """
    most = resources.cores - 1 if resources.device_type == "cuda" else resources.cores // 2
    workers = range(most, -1, -1) if config.num_workers == "auto" else [config.num_workers]
    slices = [AUTO_SLICES, 1] if config.async_factor == "auto" else [config.async_factor]
    # Without workers several slices are only taken where they were asked for.
    choices = [(w, s) for s in slices for w in workers if w > 0 or s == slices[-1]]
    if config.num_envs != "auto":
        share = config.num_envs
    elif config.batch_size != "auto":
        share = config.batch_size // (spec.num_agents * config.bptt_horizon)
    else:
        return choices[0]
    return next((choice for choice in choices if share % _group(*choice) == 0), choices[0])


def _group(num_workers: int, num_slices: int) -> int:
    """Envs come in multiples of this: every worker steps an equal part of every slice."""
    return num_slices * max(1, num_workers)


def _plan_num_envs(config: TrainerConfig, spec: EnvironmentSpec, num_slices: int, group: int) -> int:
    if config.num_envs != "auto":
        if config.num_envs % group:
            lower = config.num_envs // group * group
            fits = f"{lower} or {lower + group}" if lower else f"{group}"
            raise ValueError(
                f"trainer.num_envs={config.num_envs} cannot be shared evenly by {num_slices} slices and "
                f"trainer.num_workers={config.num_workers}: use {fits}, or trainer.num_envs=auto"
            )
        return config.num_envs
    groups = AUTO_SLICES if config.async_factor == "auto" else config.async_factor
    target_rows = config.forward_pass_minibatch_target_size * groups
    target = max(group, target_rows // spec.num_agents // group * group)
    if config.batch_size == "auto":
        return target
    # As many envs as the target asks for or the next smaller number that divides the batch without a rest.
    for num_envs in range(target, 0, -group):
        if config.batch_size % (num_envs * spec.num_agents * config.bptt_horizon) == 0:
            return num_envs
    unit = group * spec.num_agents * config.bptt_horizon
    raise ValueError(_batch_message(config, spec, unit, f"any number of envs up to {target}"))


def _plan_batch_size(config: TrainerConfig, spec: EnvironmentSpec, num_envs: int) -> int:
    unit = num_envs * spec.num_agents * config.bptt_horizon
    if config.batch_size == "auto":
        return unit  # one segment per row: the shortest rollout, so the freshest data
    if config.batch_size % unit:
        raise ValueError(_batch_message(config, spec, unit, f"{num_envs} envs"))
    return config.batch_size


def _batch_message(config: TrainerConfig, spec: EnvironmentSpec, unit: int, envs: str) -> str:
    assert isinstance(config.batch_size, int)
    lower = config.batch_size // unit * unit
    fits = f"{lower} or {lower + unit}" if lower else f"{unit}"
    return (
        f"trainer.batch_size={config.batch_size} is not a whole number of segments per row for {envs} of "
        f"{spec.num_agents} agents and trainer.bptt_horizon={config.bptt_horizon}: use {fits}, or "
        f"trainer.batch_size=auto"
    )


def _plan_minibatch_size(config: TrainerConfig, batch_size: int) -> int:
    horizon = config.bptt_horizon
    segments = batch_size // horizon
    if config.minibatch_size == "auto":
        largest = max(1, min(AUTO_MINIBATCH // horizon, segments // AUTO_MINIBATCHES))
        return max(d for d in range(1, largest + 1) if segments % d == 0) * horizon
    size = config.minibatch_size
    if size % horizon or batch_size % size:
        fitting = [d * horizon for d in range(1, segments + 1) if segments % d == 0]
        below = max((s for s in fitting if s <= size), default=fitting[0])
        above = min((s for s in fitting if s >= size), default=fitting[-1])
        raise ValueError(
            f"trainer.minibatch_size={size} does not cut a batch of {batch_size} into equal minibatches of whole "
            f"segments (trainer.bptt_horizon={horizon}): use {_either(below, above)}, or trainer.minibatch_size=auto"
        )
    return size


def _plan_pieces(config: TrainerConfig, minibatch_size: int) -> int:
    horizon = config.bptt_horizon
    if config.max_minibatch_size == "auto" or config.max_minibatch_size >= minibatch_size:
        return minibatch_size
    segments = minibatch_size // horizon
    fitting = [d * horizon for d in range(1, segments + 1) if segments % d == 0]
    size = config.max_minibatch_size
    if size not in fitting:
        below = max((s for s in fitting if s <= size), default=fitting[0])
        above = min(s for s in fitting if s >= size)
        raise ValueError(
            f"trainer.max_minibatch_size={size} does not cut a minibatch of {minibatch_size} into equal pieces of "
            f"whole segments: use {_either(below, above)}, or trainer.max_minibatch_size=auto"
        )
    return size


def _either(below: int, above: int) -> str:
    return f"{below}" if below == above else f"{below} or {above}"


def _check_memory(spec: EnvironmentSpec, batch_size: int, horizon: int, rows: int, resources: Resources) -> None:
    observation = math.prod(spec.observation.shape) * torch_dtype(spec.observation.dtype).itemsize
    needed = batch_size * (observation + BYTES_PER_STEP)
    allowed = int(resources.free_memory * BUFFER_SHARE)
    if needed > allowed:
        fits = allowed // (observation + BYTES_PER_STEP) // (rows * horizon) * rows * horizon
        advice = f"use trainer.batch_size={fits}" if fits else "use fewer envs (trainer.num_envs)"
        raise ValueError(
            f"trainer.batch_size={batch_size} needs {needed / 2**30:.1f} GiB for the rollout buffer and "
            f"{allowed / 2**30:.1f} GiB of {resources.device_type} memory may be used: {advice}"
        )
