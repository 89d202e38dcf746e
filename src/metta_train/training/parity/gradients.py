"""Gradients of the real PPO loss, parameter by parameter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from metta_train.envs.vector import VectorEnv
from metta_train.experience.segment_buffer import Segments
from metta_train.policies.parity.difference import largest_difference, roughly_equal
from metta_train.policies.parity.findings import Cause, Finding, Measurement, Section
from metta_train.policies.parity.forward import Pair
from metta_train.policies.parity.runs import guarded
from metta_train.policies.policy import Policy
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import HyperparameterValues
from metta_train.training.config import TrainerConfig
from metta_train.training.parity.bench import collector_of, copies, one_full_step, set_up, small_plan

MOVED = 0.2  # spread of the change to stored log-probs and values, so that ratios differ from 1 and clips are in force
ROUNDING = 1e-6  # gradients up to here may be nothing but rounding, like that of a bias common to all logits
SAME_FACTOR = 1e-3


def compare_gradients(
    pair: Pair, env: VectorEnv, trainer: TrainerConfig, values: HyperparameterValues, seed: int, tolerance: float
) -> Section:
    """One rollout by the reference; the gradients that both policies get from it."""
    trainer = one_full_step(trainer)
    plan = small_plan(env.num_rows, whole=True)
    collecting, ours, theirs = copies(pair.reference, pair.reference, pair.candidate)
    bench = set_up(collecting, trainer, plan, clip_range=0.0, seed=seed, agent="")
    segments = _moved(collector_of(bench, env, plan).collect().segments, seed)
    gradients: list[dict[str, Tensor]] = []
    for title, policy in zip(pair.titles, (ours, theirs), strict=True):
        updater = set_up(policy, trainer, plan, clip_range=0.0, seed=seed, agent="").updater
        guarded(title, "a gradient step", partial(updater.update, segments, values, 0.0))
        gradients.append(_gradients(policy))
    renamed = {pair.names.get(name, name): gradient for name, gradient in gradients[1].items()}
    measurements, findings = [], []
    for name, gradient in gradients[0].items():
        if name not in renamed or renamed[name].shape != gradient.shape:
            continue
        difference = largest_difference(gradient, renamed[name])
        measurements.append(Measurement(name, difference))
        if difference > tolerance:
            findings.append(_finding(name, gradient, renamed[name], difference))
    # Backpropagation runs from the end of the network to its beginning: the last parameter comes first.
    return Section(
        name="backward",
        tolerance=tolerance,
        summary=f"gradients of {len(measurements)} parameters, PPO loss over {segments.num_segments} segments",
        measurements=tuple(measurements),
        findings=tuple(reversed(findings)),
    )


def _moved(segments: Segments, seed: int) -> Segments:
    generator = torch.Generator().manual_seed(derived_seed(seed, "parity", "moved"))

    def move(tensor: Tensor) -> Tensor:
        return tensor + MOVED * torch.randn(tensor.shape, generator=generator).to(tensor.device)

    return replace(segments, log_probs=move(segments.log_probs), values=move(segments.values))


def _gradients(policy: Policy) -> dict[str, Tensor]:
    """Zeros where nothing arrived."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in policy.named_parameters()
    }


def _finding(name: str, ours: Tensor, theirs: Tensor, difference: float) -> Finding:
    causes: tuple[Cause, ...] = ()
    if bool(ours.any()) and not bool(theirs.any()):
        causes = (Cause("detached", f"no gradient reaches {name}: something behind it is detached, or it is not used"),)
    elif bool(theirs.any()) and not bool(ours.any()):
        causes = (Cause("not-detached", f"{name} gets a gradient that the reference does not give it"),)
    elif float(ours.abs().max()) > ROUNDING:
        factor = float((ours * theirs).sum() / ours.square().sum())
        if abs(factor - 1.0) > SAME_FACTOR and roughly_equal(ours * factor, theirs):
            causes = (Cause("scale", f"the gradient of {name} is multiplied by {factor:.4g}"),)
    return Finding(name, f"the gradient of {name} differs by {difference:.3g}", difference, causes)
