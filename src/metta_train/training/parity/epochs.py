"""Some epochs of both policies on the same rollouts: how far they drift apart, and what a checkpoint would hold."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial

from metta_train.envs.vector import VectorEnv
from metta_train.policies.parity.difference import largest_difference
from metta_train.policies.parity.findings import Finding, Measurement, Section
from metta_train.policies.parity.forward import Pair
from metta_train.policies.parity.runs import guarded
from metta_train.policies.policy import Policy
from metta_train.specs.records import Progress, UpdateStats
from metta_train.training.config import TrainerConfig
from metta_train.training.parity.bench import SAMPLING, collector_of, copies, set_up, small_plan
from metta_train.training.schedules import Schedules

FILES = ("model.safetensors", "optimizer.safetensors", "state.safetensors")


def compare_training(
    pair: Pair,
    env: VectorEnv,
    trainer: TrainerConfig,
    schedules: Schedules,
    clip_range: float,
    epochs: int,
    seed: int,
    tolerance: float,
) -> Section:
    """The reference collects, both are updated on what it collected, with their own optimizers and minibatches."""
    plan = small_plan(env.num_rows, whole=False)
    ours, theirs = copies(pair.reference, pair.candidate)
    benches = [set_up(policy, trainer, plan, clip_range, seed, agent="") for policy in (ours, theirs)]
    collector = collector_of(benches[0], env, plan)
    measurements, findings = [], []
    for epoch in range(1, epochs + 1):
        values = schedules.at((epoch - 1) / epochs)
        segments = collector.collect().segments
        stats: list[UpdateStats] = []
        for title, bench in zip(pair.titles, benches, strict=True):
            step = partial(bench.updater.update, segments, values, (epoch - 1) / epochs)
            update = guarded(title, f"epoch {epoch}", step)
            stats.append(update.stats)
        name, difference = _largest_weight_difference(ours, theirs, pair)
        measurements.append(Measurement(f"weights after epoch {epoch}", difference, name))
        measurements.append(Measurement(f"losses of epoch {epoch}", _stats_difference(*stats)))
        if difference > tolerance and not findings:
            findings.append(
                Finding(name, f"after epoch {epoch} the weights differ, {name} most: by {difference:.3g}", difference)
            )
    if all(name == other for name, other in pair.names.items()):
        # The reference alone has drawn actions; the stream is not what is compared.
        benches[1].state.generators[SAMPLING].set_state(benches[0].state.generators[SAMPLING].get_state())
        progress = Progress(epochs, epochs * plan.batch_size, 0)
        files = [bench.state.checkpoint_files(progress) for bench in benches]
        different = [name for name in FILES if files[0][name] != files[1][name]]
        words = "byte-identical" if not different else f"different: {', '.join(different)}"
        measurements.append(Measurement("checkpoint files", None, words))
        if different and tolerance == 0:
            findings.append(Finding("checkpoint", f"checkpoint files differ: {', '.join(different)}"))
    else:
        words = "not comparable byte by byte: the parameters have other names"
        measurements.append(Measurement("checkpoint files", None, words))
    return Section(
        name="training",
        tolerance=tolerance,
        summary=f"{epochs} epochs of {plan.batch_size} agent steps; checkpoint files {words}",
        measurements=tuple(measurements),
        findings=tuple(findings),
    )


def _largest_weight_difference(ours: Policy, theirs: Policy, pair: Pair) -> tuple[str, float]:
    renamed = {pair.names.get(name, name): p for name, p in theirs.named_parameters()}
    differences = [
        (largest_difference(p, renamed[name]), name)
        for name, p in ours.named_parameters()
        if name in renamed and renamed[name].shape == p.shape
    ]
    difference, name = max(differences)
    return (name if difference > 0 else ""), difference


def _stats_difference(ours: UpdateStats, theirs: UpdateStats) -> float:
    pairs = zip(astuple(ours), astuple(theirs), strict=True)
    return max(abs(a - b) if a is not None and b is not None else 0.0 for a, b in pairs)
