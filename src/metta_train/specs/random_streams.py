"""Everything random derives from the run's seed by named spawn keys (numpy.random.SeedSequence)."""

from __future__ import annotations

import hashlib

import numpy as np


def derived_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the stream named by `path`, e.g. `derived_seed(7, "rank", 0, "env", 3, "episode", 12)`.

    Streams of different paths are independent (SeedSequence spawn keys); the same path gives the same seed on every
    machine and in every process. Integers in the path must be 0 or more.
    """
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=tuple(_spawn_key(part) for part in path))
    low, high = (int(word) for word in sequence.generate_state(2, np.uint32))
    return (high << 32 | low) & (2**63 - 1)


def _spawn_key(part: str | int) -> int:
    if isinstance(part, int):
        assert part >= 0, f"spawn keys count from 0, got {part}"
        return part
    # Python's hash() differs between processes, so names are hashed with SHA-256. The top bit keeps names apart from
    # the small integers beside them.
    return int.from_bytes(hashlib.sha256(part.encode()).digest()[:4], "little") | 1 << 31
