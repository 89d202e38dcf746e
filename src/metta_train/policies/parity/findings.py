"""What a comparison of two policies finds. The first policy is the reference, the second the candidate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """A usual mistake that, tried on the reference, gives the candidate's numbers.

    Attributes:
        kind: a fixed word for programs, e.g. "activation".
        text: for people, e.g. "relu is missing after cnn2".
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One compared thing: a parameter, a layer's activation in a scenario, an epoch.

    Attributes:
        subject: what was compared.
        difference: largest absolute difference; inf where one side is not finite and the other one is, or where they
            cannot be subtracted; None where nothing comparable exists.
        note: how to read it, e.g. why it was not compared.
        limit: largest difference that counts as equal, where the section's tolerance is not meant; None elsewhere.
    """

    subject: str
    difference: float | None
    note: str = ""
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference beyond the tolerance.

    Attributes:
        subject: the parameter, layer or output that differs, by the reference's name.
        message: what differs, in one line.
        difference: largest absolute difference; None where it is no matter of numbers.
        causes: those that explain the difference, the most likely first; empty where no usual one does.
        counterpart: the candidate's parameter that most likely belongs to it; "" where there is none.
    """

    subject: str
    message: str
    difference: float | None = None
    causes: tuple[Cause, ...] = ()
    counterpart: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the comparison.

    Attributes:
        name: "structure", "initialisation", "forward", "backward", "weights" or "training".
        tolerance: largest difference that counts as equal.
        summary: one line for people.
        measurements: everything that was compared, in its natural order.
        findings: what differs, the first and most telling one first; empty means that the section holds.
    """

    name: str
    tolerance: float
    summary: str
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        return not self.findings

    @property
    def largest_difference(self) -> float:
        """Over the measurements that the section's tolerance is for; 0 where none has a number."""
        return max(
            (m.difference for m in self.measurements if m.difference is not None and m.limit is None), default=0.0
        )


class UnusablePolicyError(ValueError):
    """A policy raises, gives outputs of the wrong shape, or cannot take the other one's weights."""
