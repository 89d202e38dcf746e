"""The initial values of two policies from the same seed, and how those that differ are distributed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from metta_train.policies.parity.difference import largest_difference
from metta_train.policies.parity.findings import Cause, Finding, Measurement, Section
from metta_train.policies.policy import Policy

SAME_GAIN = 0.02  # relative difference of gains or spreads that counts as the same
GATES = ("i", "f", "g", "o")  # torch's order of an LSTM's chunks


def compare_initialisation(
    reference: Policy, candidate: Policy, names: Mapping[str, str], titles: tuple[str, str], tolerance: float
) -> Section:
    """Both policies as they were initialised; `names` gives the candidate's names the reference's."""
    ours = dict(reference.named_parameters())
    theirs = {names[name]: p for name, p in candidate.named_parameters() if name in names}
    measurements, findings = [], []
    for name, parameter in ours.items():
        if name not in theirs or theirs[name].shape != parameter.shape:
            continue
        difference = largest_difference(parameter, theirs[name])
        measurements.append(Measurement(name, difference))
        if difference > tolerance:
            findings.append(_finding(name, parameter.detach(), theirs[name].detach(), difference))
    return Section(
        name="initialisation",
        tolerance=tolerance,
        summary=f"{len(measurements)} parameters from the same seed",
        measurements=tuple(measurements),
        findings=tuple(findings),
    )


def _finding(name: str, ours: Tensor, theirs: Tensor, difference: float) -> Finding:
    layer = name.removesuffix(".weight")
    our_words, their_words = describe(ours), describe(theirs)
    if _same_distribution(ours, theirs):
        cause = Cause("stream", "the same distribution, drawn from another stream of random numbers")
        return Finding(name, f"{layer}: other values, both {our_words}", difference, (cause,))
    our_gain, their_gain = gain_of(ours), gain_of(theirs)
    if our_gain is not None and their_gain is not None and not math.isclose(our_gain, their_gain, rel_tol=SAME_GAIN):
        text = f"gain {their_gain:.2f} against {our_gain:.2f}"
        return Finding(name, f"{layer}: {text}", difference, (Cause("gain", f"{layer}: {text}"),))
    cause = Cause("distribution", f"{their_words} instead of {our_words}")
    return Finding(name, f"{layer}: {their_words} against {our_words}", difference, (cause,))


def _same_distribution(ours: Tensor, theirs: Tensor) -> bool:
    """Equal gains, or no significant difference between the two samples (Kolmogorov and Smirnov, at 0.1 %)."""
    gains = gain_of(ours), gain_of(theirs)
    if gains[0] is not None and gains[1] is not None:
        return math.isclose(gains[0], gains[1], rel_tol=SAME_GAIN)
    if gains != (None, None):
        return False
    samples = [values.to("cpu", torch.float64).flatten().sort().values for values in (ours, theirs)]
    if any(bool(sample[0] == sample[-1]) for sample in samples):
        return False  # constants that differ
    everything = torch.cat(samples)
    shares = [torch.searchsorted(sample, everything, right=True) / len(sample) for sample in samples]
    return float((shares[0] - shares[1]).abs().max()) < 1.95 * math.sqrt(2 / len(samples[0]))


def gain_of(values: Tensor) -> float | None:
    """The common singular value of a (semi-)orthogonal matrix (of a single row: its length); None for other tensors."""
    values = values.squeeze(0) if values.dim() > 2 else values
    if values.dim() < 2:
        return None
    singular = torch.linalg.svdvals(values.detach().to("cpu", torch.float64).flatten(1))
    largest, smallest = float(singular[0]), float(singular[-1])
    return largest if largest > 0 and smallest > 0.98 * largest else None


def describe(values: Tensor) -> str:
    """How a tensor of initial values is distributed, in a few words: "orthogonal, gain 1.41", "uniform +-0.044"."""
    values = values.detach().to("cpu", torch.float64)
    first = float(values.flatten()[0])
    if bool((values == first).all()):
        return f"all {first:.3g}"
    if values.dim() == 1 and len(values) % 4 == 0:
        chunks = values.chunk(4)
        if all(bool((chunk == chunk[0]).all()) for chunk in chunks):
            gates = ", ".join(f"{gate} {float(chunk[0]):.3g}" for gate, chunk in zip(GATES, chunks, strict=True))
            return f"gates {gates}"
    gain = gain_of(values)
    if gain is not None:
        return f"orthogonal, gain {gain:.2f}"
    if values.dim() == 1 and len(values) < 8:
        return f"values about {float(values.abs().mean()):.2g}"
    spread, mean, limit = float(values.std()), float(values.mean()), float(values.abs().max())
    # A uniform distribution ends at sqrt(3) times its spread.
    shape = "uniform" if values.numel() >= 64 and limit < 1.8 * spread and abs(mean) < spread / 4 else "spread"
    if shape == "uniform":
        return f"uniform +-{limit:.2g}"
    return f"mean {mean:.2g}, spread {spread:.2g}, largest {limit:.2g}" + _orthogonality(values)


def _orthogonality(values: Tensor) -> str:
    """How far the rows (or columns) are from orthogonal, for a matrix that is not."""
    if values.dim() < 2:
        return ""
    singular = torch.linalg.svdvals(values.flatten(1))
    return f", singular values {float(singular[-1]):.2g}..{float(singular[0]):.2g}"
