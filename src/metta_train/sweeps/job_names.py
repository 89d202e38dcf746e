"""Names of jobs and trials, made from the values that set them apart: unique, stable, and fit for a folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

SEED = "seed"
UNNAMED = "job"  # nothing sets it apart
MAX_LENGTH = 120  # a part of a run name has at most 128 characters
_HASH = 8

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def job_name(values: Mapping[str, str]) -> str:
    """`learning_rate-0.001__seed-1`: the same values give the same name, in whatever order they come.

    Args:
        values: what the job's keys are set to, as text.
    """
    if not values:
        return UNNAMED
    labels = short_keys(list(values))
    keys = sorted(values, key=lambda key: (key == SEED, key))
    plain = "__".join(f"{labels[key]}-{values[key]}" for key in keys)
    name = _UNFIT.sub("-", plain).strip("-._") or UNNAMED
    if name == plain and len(name) <= MAX_LENGTH:
        return name
    # What was cut off or replaced may be all that sets it apart.
    digest = hashlib.sha256(plain.encode()).hexdigest()[:_HASH]
    return f"{name[: MAX_LENGTH - _HASH - 1].rstrip('-._')}-{digest}"


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ending of each dotted key that no other one has: `trainer.optimizer.eps` is `eps`."""
    return {key: _short(key, [other for other in keys if other != key]) for key in keys}


def _short(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    for count in range(1, len(parts)):
        ending = ".".join(parts[-count:])
        if not any(other == ending or other.endswith(f".{ending}") for other in others):
            return ending
    return key
