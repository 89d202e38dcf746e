"""Arms by name; imports of one arm do not reach the others."""

from __future__ import annotations

from benchmark_parts.arm import Arm
from benchmark_parts.workload import Workload


def build_arm(name: str, workload: Workload) -> Arm:
    if name == "ours":
        from benchmark_parts.ours import Ours

        return Ours(workload)
    if name == "reference":
        from benchmark_parts.plain_reference import PlainReference

        return PlainReference(workload)
    from benchmark_parts.pufferl_arm import LIBRARY_DEFAULTS, PuffeRLArm

    if name == "pufferl-defaults":
        return PuffeRLArm(workload, overrides=LIBRARY_DEFAULTS)
    if name == "pufferl-our-optimizer":
        return PuffeRLArm(workload, our_optimizer=True)
    return PuffeRLArm(workload, {"pufferl": "Serial", "pufferl-multiprocessing": "Multiprocessing"}[name])
