"""Whether an exported network computes what the policy computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metta_train.export.step_graph import NotExportableError
from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import PADDING_LOCATION, EnvironmentSpec, TokenObservation
from metta_train.specs.recurrent_state import RecurrentState

STEPS = 6
ROWS = (1, 3, 70)
TOLERANCE = 1e-4  # relative to the largest value, at least 1; float32 in another order stays far below

# (observations, resets, state) -> (logits, values, *state)
StepFunction = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def checked_difference(policy: Policy, step: StepFunction, what: str) -> float:
    """The largest difference between a policy and its export over several steps, resets included.

    Both go on from their own memory, so that differences add up as they do in use.

    Raises:
        NotExportableError: the difference is more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for rows in ROWS:
        state = policy.initial_state(rows)
        exported = state.tensors
        for _ in range(STEPS):
            observations = random_observations(policy.spec, rows, generator)
            resets = torch.rand(rows, generator=generator) < 0.3
            with torch.no_grad():
                output = policy(observations.unsqueeze(1), state, resets.unsqueeze(1))
            state = RecurrentState(output.state.tensors)
            logits, values, *exported = step(observations, resets, tuple(exported))
            wanted = (output.logits.squeeze(1), output.values.squeeze(1), *state.tensors)
            for got, want in zip((logits, values, *exported), wanted, strict=True):
                if got.shape != want.shape:
                    raise NotExportableError(
                        f"{what}: gives {list(got.shape)} where the policy gives {list(want.shape)}"
                    )
                difference = float((got - want).abs().max()) / max(1.0, float(want.abs().max()))
                largest = max(largest, difference)
    if not largest <= TOLERANCE:
        raise NotExportableError(f"{what}: differs from the policy by {largest:.2g}, needs at most {TOLERANCE:.0e}")
    return largest


def random_observations(spec: EnvironmentSpec, rows: int, generator: torch.Generator) -> Tensor:
    """`[rows, ...]`: tokens with cells inside and outside the window, cells named twice, and padding; or numbers."""
    observation = spec.observation
    if isinstance(observation, TokenObservation):
        tokens = torch.randint(0, 256, (rows, *observation.shape), generator=generator, dtype=torch.uint8)
        ids = torch.tensor([feature.id for feature in observation.features], dtype=torch.uint8)
        known = torch.randint(0, len(ids), tokens.shape[:2], generator=generator)
        tokens[..., 1] = torch.where(
            torch.rand(tokens.shape[:2], generator=generator) < 0.9, ids[known], tokens[..., 1]
        )
        tokens[..., 2] %= 8
        tokens[:, observation.num_tokens // 2 :, 0] = PADDING_LOCATION
        return tokens
    dtype: torch.dtype = getattr(torch, observation.dtype)
    if dtype.is_floating_point:
        return torch.randn(rows, *observation.shape, generator=generator).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 100, (rows, *observation.shape), generator=generator).to(
        dtype
    )
