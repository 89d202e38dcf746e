"""The whole comparison of two policies, section by section."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from metta_train.envs.vector import VectorEnv
from metta_train.policies.parity.findings import Section
from metta_train.policies.parity.forward import Pair, compare_forward
from metta_train.policies.parity.initialisation import compare_initialisation
from metta_train.policies.parity.scenarios import give_lively_weights, scenarios
from metta_train.policies.parity.structure import check_transferable, compare_structure, copy_weights, pair_parameters
from metta_train.policies.policy import Policy
from metta_train.training.config import TrainerConfig
from metta_train.training.parity.bench import num_envs_for
from metta_train.training.parity.epochs import compare_training
from metta_train.training.parity.gradients import compare_gradients
from metta_train.training.parity.synthetic_env import SyntheticEnv
from metta_train.training.parity.weight_operations import compare_weight_operations
from metta_train.training.schedules import Schedules

SECTIONS = ("structure", "initialisation", "forward", "backward", "weights", "training")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two policies.

    Attributes:
        title: how to call it, e.g. "agent=fast".
        policy: initialised from the common seed, on the CPU.
    """

    title: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Comparison:
    """What to compare, and how strictly.

    Attributes:
        names: `candidate's parameter or layer: reference's`, for names that differ.
        trainer: losses, optimizer and schedules.
        clip_range: of the weights, in the training section.
        device: where forward, gradients and training run.
        seed: of scenarios and rollouts.
        epochs: of the training section.
        tolerances: largest difference that counts as equal, by section; 0 where absent.
        sections: which ones; the structure always.
    """

    names: Mapping[str, str]
    trainer: TrainerConfig
    clip_range: float
    device: torch.device
    seed: int
    epochs: int
    tolerances: Mapping[str, float] = field(default_factory=dict)
    sections: Sequence[str] = SECTIONS


def compare_policies(
    reference: Side, candidate: Side, comparison: Comparison, make_env: Callable[[], VectorEnv] | None = None
) -> Iterator[Section]:
    """Compare section by section, in the order of SECTIONS. The given policies are left as they are.

    Args:
        reference: what is right by definition.
        candidate: what is examined.
        comparison: what and how strictly.
        make_env: the environment of gradients and training; None for a synthetic one made from the spec.

    Raises:
        ValueError: the name map does not fit.
        UnusablePolicyError: the policies cannot be compared further; what was yielded before stands.
    """
    titles = (reference.title, candidate.title)
    pairing = pair_parameters(reference.policy, candidate.policy, comparison.names, titles)

    def wanted(section: str) -> bool:
        return section in comparison.sections

    def tolerance(section: str) -> float:
        return comparison.tolerances.get(section, 0.0)

    def env() -> VectorEnv:
        if make_env is not None:
            return make_env()
        spec = reference.policy.spec
        return SyntheticEnv(spec, num_envs=num_envs_for(spec.num_agents), seed=comparison.seed)

    yield compare_structure(reference.policy, candidate.policy, pairing, titles)
    if wanted("initialisation"):
        yield compare_initialisation(
            reference.policy, candidate.policy, pairing.names, titles, tolerance("initialisation")
        )
    check_transferable(reference.policy, candidate.policy, pairing, titles)
    initial, lively = _pairs(reference, candidate, pairing.names, comparison)
    if wanted("forward"):
        given = scenarios(reference.policy.spec, reference.policy.state_shapes, comparison.seed)
        yield compare_forward(lively, [scenario.to(comparison.device) for scenario in given], tolerance("forward"))
    trainer = comparison.trainer
    schedules = Schedules(trainer.hyperparameter_scheduler, trainer.optimizer, trainer.ppo)
    if wanted("backward"):
        with env() as opened:
            yield compare_gradients(lively, opened, trainer, schedules.at(0.0), comparison.seed, tolerance("backward"))
    if wanted("weights"):
        yield compare_weight_operations(initial, comparison.seed, tolerance("weights"))
    if wanted("training"):
        with env() as opened:
            yield compare_training(
                initial,
                opened,
                trainer,
                schedules,
                comparison.clip_range,
                comparison.epochs,
                comparison.seed,
                tolerance("training"),
            )


def _pairs(reference: Side, candidate: Side, names: Mapping[str, str], comparison: Comparison) -> tuple[Pair, Pair]:
    """Copies on the device with common weights: the initial ones, and others of which none is zero."""
    titles = (reference.title, candidate.title)
    pairs = []
    for lively in (False, True):
        ours, theirs = copy.deepcopy(reference.policy), copy.deepcopy(candidate.policy)
        if lively:
            give_lively_weights(ours, comparison.seed)
        copy_weights(ours, theirs, names)
        pairs.append(Pair(ours.to(comparison.device), theirs.to(comparison.device), names, titles))
    return pairs[0], pairs[1]
