"""The generators that belong to nobody: torch's, NumPy's and Python's own, as used by layers like Dropout."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

TORCH, CUDA, NUMPY, PYTHON = "global/torch", "global/cuda", "global/numpy", "global/python"
_WORDS = 624  # of a Mersenne Twister


def seed_global_generators(seed: int) -> None:
    """Make them a function of the run's seed."""
    torch.manual_seed(seed)  # CUDA devices included
    np.random.seed(seed % 2**32)
    random.seed(seed)


def global_random_states(device: torch.device) -> dict[str, Tensor]:
    """Their states as uint8 tensors, by name; CUDA's where the training runs on it."""
    states = {TORCH: torch.get_rng_state(), NUMPY: _numpy_state(), PYTHON: _python_state()}
    if device.type == "cuda":
        states[CUDA] = torch.cuda.get_rng_state(device)
    return states


def restore_global_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Take over what `global_random_states` gave; a stream that is absent stays as it is."""
    if TORCH in states:
        torch.set_rng_state(states[TORCH])
    if CUDA in states and device.type == "cuda":
        torch.cuda.set_rng_state(states[CUDA], device)
    if NUMPY in states:
        words = _words(states[NUMPY])
        np.random.set_state(("MT19937", words[:_WORDS], int(words[_WORDS]), 0, 0.0))
    if PYTHON in states:
        words = _words(states[PYTHON])
        random.setstate((3, tuple(int(word) for word in words), None))


# Half of a pair of normal numbers that may still be owed is left out: nothing here draws such pairs.


def _numpy_state() -> Tensor:
    _, words, position, _, _ = np.random.get_state(legacy=True)
    return _bytes(np.append(np.asarray(words, np.uint32), np.uint32(position)))


def _python_state() -> Tensor:
    _, words, _ = random.getstate()
    return _bytes(np.asarray(words, np.uint32))


def _bytes(words: np.ndarray) -> Tensor:
    return torch.from_numpy(words.astype("<u4").view(np.uint8).copy())


def _words(state: Tensor) -> np.ndarray:
    words = state.numpy().view("<u4").astype(np.uint32)
    if len(words) != _WORDS + 1:
        raise ValueError(f"a saved random state has {len(words)} words, needs {_WORDS + 1}")
    return words
