"""Observations, memory and resets on which two policies are compared; drawn from an EnvironmentSpec and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import (
    GLOBAL_LOCATION,
    PADDING_LOCATION,
    BoxObservation,
    EnvironmentSpec,
    Feature,
    TokenObservation,
)
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.recurrent_state import RecurrentState

# Different and prime, so that a mixed-up reshape cannot go unnoticed; enough together for fast paths to be worth it.
ROWS, STEPS = 11, 7
MEMORY_SCALE = 0.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """One call of a policy.

    Attributes:
        name: for people.
        observations: `[B, T, ...]`.
        actions: `[B, T]` int64.
        state: before the first step.
        resets: `[B, T]` bool.
    """

    name: str
    observations: Tensor
    actions: Tensor
    state: RecurrentState
    resets: Tensor

    @property
    def rows_and_steps(self) -> tuple[int, int]:
        return self.resets.shape[0], self.resets.shape[1]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What goes into the policy, by name."""
        states = {f"state {k}": tensor for k, tensor in enumerate(self.state.tensors)}
        return {"observations": self.observations, **states, "resets": self.resets}

    def step(self, index: int, state: RecurrentState) -> Scenario:
        """One of its steps, with another memory."""
        part = slice(index, index + 1)
        return Scenario(self.name, self.observations[:, part], self.actions[:, part], state, self.resets[:, part])

    def to(self, device: torch.device) -> Scenario:
        return Scenario(
            self.name,
            self.observations.to(device),
            self.actions.to(device),
            self.state.to(device),
            self.resets.to(device),
        )


def scenarios(spec: EnvironmentSpec, state_shapes: tuple[tuple[int, ...], ...], seed: int) -> tuple[Scenario, ...]:
    """From the simplest to the hardest, so that the first difference says most."""
    draw = np.random.default_rng(derived_seed(seed, "parity", "scenarios"))

    def scenario(name: str, observations: np.ndarray, *, memory: bool, resets: np.ndarray) -> Scenario:
        rows, steps = resets.shape
        states = [
            MEMORY_SCALE * draw.standard_normal((rows, *shape)) if memory else np.zeros((rows, *shape))
            for shape in state_shapes
        ]
        return Scenario(
            name=name,
            observations=torch.from_numpy(observations.reshape(rows, steps, *spec.observation.shape)),
            actions=torch.from_numpy(draw.integers(0, len(spec.actions), (rows, steps))),
            state=RecurrentState(tuple(torch.from_numpy(state.astype(np.float32)) for state in states)),
            resets=torch.from_numpy(resets),
        )

    def never(rows: int, steps: int) -> np.ndarray:
        return np.zeros((rows, steps), dtype=bool)

    some = never(ROWS, 1)
    some[[1, 3]] = True
    inside = draw.random((ROWS, STEPS)) < 0.2
    inside[0] = False  # a row that goes through without a reset
    inside[1, 0], inside[2, 3], inside[3, STEPS - 1] = True, True, True
    many = draw_observations(spec, 24, draw)
    edge = edge_observations(spec, draw)
    return (
        scenario("one step", many, memory=False, resets=never(24, 1)),
        scenario("one row", draw_observations(spec, 1, draw), memory=False, resets=never(1, 1)),
        scenario("edge observations", edge, memory=False, resets=never(len(edge), 1)),
        scenario("one step with memory", draw_observations(spec, ROWS, draw), memory=True, resets=never(ROWS, 1)),
        scenario("one step, some rows reset", draw_observations(spec, ROWS, draw), memory=True, resets=some),
        scenario("sequence", draw_observations(spec, ROWS * STEPS, draw), memory=True, resets=never(ROWS, STEPS)),
        scenario("sequence with resets", draw_observations(spec, ROWS * STEPS, draw), memory=True, resets=inside),
    )


def draw_observations(spec: EnvironmentSpec, rows: int, draw: np.random.Generator) -> np.ndarray:
    """`[rows, ...]` that use every rule: for tokens also repeated cells, gaps, global tokens, and tokens to ignore."""
    if isinstance(spec.observation, BoxObservation):
        return _draw_box(spec.observation, rows, draw)
    return np.stack([_draw_tokens(spec.observation, draw) for _ in range(rows)])


def edge_observations(spec: EnvironmentSpec, draw: np.random.Generator) -> np.ndarray:
    """For tokens: nothing, everything used, only global tokens, random bytes. For boxes: the limits of the type."""
    observation = spec.observation
    if isinstance(observation, BoxObservation):
        kind = np.dtype(observation.dtype)
        if kind == np.bool_:
            values: list[float] = [0, 1]
        elif np.issubdtype(kind, np.integer):
            values = [np.iinfo(kind).min, 0, np.iinfo(kind).max]
        else:
            values = [-100.0, 0.0, 100.0]
        return np.stack([np.full(observation.shape, value, dtype=kind) for value in values])
    size = observation.num_tokens
    empty = np.full((size, 3), PADDING_LOCATION, dtype=np.uint8)
    full = np.stack([_token(observation, draw) for _ in range(size)])
    everywhere = full.copy()
    everywhere[:, 0] = GLOBAL_LOCATION
    random = draw.integers(0, 256, (3, size, 3), dtype=np.uint8)
    return np.stack([empty, full, everywhere, *random])


def _draw_box(observation: BoxObservation, rows: int, draw: np.random.Generator) -> np.ndarray:
    kind, shape = np.dtype(observation.dtype), (rows, *observation.shape)
    if np.issubdtype(kind, np.floating):
        return draw.standard_normal(shape).astype(kind)
    if kind == np.bool_:
        return draw.random(shape) < 0.5
    limits = np.iinfo(kind)
    return draw.integers(max(limits.min, -128), min(limits.max, 255), shape, endpoint=True).astype(kind)


def _draw_tokens(observation: TokenObservation, draw: np.random.Generator) -> np.ndarray:
    """Up to 60 tokens with gaps of padding between them; the last third repeats cells and features of the others."""
    size = observation.num_tokens
    tokens = np.full((size, 3), PADDING_LOCATION, dtype=np.uint8)
    used = np.sort(draw.permutation(size)[: max(1, min(60, size - size // 4))])
    for number, place in enumerate(used):
        tokens[place] = _token(observation, draw)
        if number and number >= len(used) * 2 // 3:
            tokens[place, :2] = tokens[used[draw.integers(0, number)], :2]
    tokens[used[0], :2] = 0, observation.features[0].id  # the cell that an unused token must not touch
    if len(used) > 1:
        tokens[used[1], 0] = GLOBAL_LOCATION
    if len(used) > 2:
        outside = _outside(observation)
        if outside is not None:
            tokens[used[2], 0] = outside
    if len(used) > 3:
        known = {feature.id for feature in observation.features}
        tokens[used[3], 1] = next((k for k in range(254, -1, -1) if k not in known), tokens[used[3], 1])
    return tokens


def _token(observation: TokenObservation, draw: np.random.Generator) -> np.ndarray:
    feature = observation.features[draw.integers(len(observation.features))]
    row, column = draw.integers(observation.window_height), draw.integers(observation.window_width)
    return np.array([row << 4 | column, feature.id, _value(feature, draw)], dtype=np.uint8)


def _value(feature: Feature, draw: np.random.Generator) -> int:
    if feature.categories:
        return int(draw.integers(min(256, feature.categories + 1)))  # sometimes one that does not exist
    return int(draw.integers(1, min(255, math.ceil(2 * feature.normalization)), endpoint=True))


def _outside(observation: TokenObservation) -> int | None:
    """A cell beside the window, in its first row or column; None when the window has all that a byte can say."""
    if observation.window_width < 15:
        return observation.window_width
    return None if observation.window_height >= 15 else observation.window_height << 4


@torch.no_grad()
def give_lively_weights(policy: Policy, seed: int) -> None:
    """Move every parameter away from its initial value, so that none is zero and none equals another one.

    A bias that starts at 0 would hide that it is missing.
    """
    for name, parameter in policy.named_parameters():
        generator = torch.Generator().manual_seed(derived_seed(seed, "parity", name))
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        spread = float(parameter.std()) if parameter.dim() > 1 else 0.0
        parameter.add_(noise * (0.3 * spread if spread > 0 else 0.2))
