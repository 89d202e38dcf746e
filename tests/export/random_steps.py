"""Steps of a policy and of its export side by side, written without the product's own check."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation


def same_steps(policy: Policy, step: Callable[..., Sequence[Tensor]], rows: Sequence[int] = (1, 2, 33)) -> float:
    """The largest difference over 5 steps of each number of rows; some rows reset at every step but the first."""
    generator = torch.Generator().manual_seed(7)
    largest = 0.0
    for count in rows:
        state = policy.initial_state(count)
        theirs = list(state.tensors)
        for number in range(5):
            observations = some_observations(policy.spec, count, generator)
            resets = torch.arange(count) % 3 == (number - 1 if number else -1)
            with torch.no_grad():
                output = policy(observations[:, None], state, resets[:, None])
            state = output.state
            logits, values, *theirs = step(observations, resets, *theirs)
            assert logits.shape == (count, len(policy.spec.actions)) and values.shape == (count,)
            pairs = [
                (logits, output.logits[:, 0]),
                (values, output.values[:, 0]),
                *zip(theirs, state.tensors, strict=True),
            ]
            largest = max(largest, *(float((got - want).abs().max()) for got, want in pairs))
    return largest


def some_observations(spec: EnvironmentSpec, rows: int, generator: torch.Generator) -> Tensor:
    """Tokens everywhere, of known and unknown features, some cells twice; or numbers of a normal distribution."""
    if not isinstance(spec.observation, TokenObservation):
        return torch.randn(rows, *spec.observation.shape, generator=generator)
    tokens = torch.randint(0, 256, (rows, *spec.observation.shape), generator=generator, dtype=torch.uint8)
    tokens[..., 0] %= 64  # the first four rows of cells, and columns outside the window
    tokens[..., 1] %= len(spec.observation.features) + 2
    tokens[..., 2] %= 6
    tokens[:, ::5, 0] = 254
    tokens[:, -3:] = 255
    return tokens
