"""The random streams of one process of a run: children of its seed, by name (specs/random_streams.py)."""

from __future__ import annotations

import torch

from metta_train.specs.random_streams import derived_seed

RANK = 0
SAMPLING = "sampling"
MINIBATCHES = "minibatches"


def generator_of(seed: int, device: torch.device, stream: str) -> torch.Generator:
    """A generator at the start of one stream."""
    return torch.Generator(device).manual_seed(derived_seed(seed, "rank", RANK, stream))
