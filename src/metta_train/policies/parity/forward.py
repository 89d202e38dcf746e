"""Both policies on the same inputs with the same weights: every layer compared, the first difference explained."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metta_train.policies.parity.difference import largest_difference, roughly_equal
from metta_train.policies.parity.findings import Cause, Finding, Measurement, Section
from metta_train.policies.parity.layers import (
    Checkpoint,
    Origin,
    compare_layers,
    first_difference,
    layer_calls,
    origin,
    owner,
)
from metta_train.policies.parity.memory_mistakes import (
    explaining_axis_mistakes,
    explaining_memory_mistakes,
    explaining_state_mistakes,
)
from metta_train.policies.parity.parameter_mistakes import parameter_mistakes
from metta_train.policies.parity.runs import TracedRun, guarded, traced_run
from metta_train.policies.parity.scenarios import Scenario
from metta_train.policies.parity.tensor_mistakes import activation_mistakes, tensor_mistakes, wiring_mistakes
from metta_train.policies.parity.token_rules import paint, token_mistakes
from metta_train.policies.parity.trace import Trace, renamed
from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import TokenObservation

STEPWISE_TOLERANCE = 1e-5  # a call of T steps and T calls of one step may round differently
MAX_CAUSES = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two policies with the same weights.

    Attributes:
        reference: what is right by definition.
        candidate: what is examined.
        names: the candidate's parameter names -> the reference's.
        titles: how to call them in messages.
    """

    reference: Policy
    candidate: Policy
    names: Mapping[str, str]
    titles: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """One scenario through both policies."""

    scenario: Scenario
    reference: TracedRun
    candidate: TracedRun
    checkpoints: Sequence[Checkpoint]

    @property
    def has_memory(self) -> bool:
        return any(bool(tensor.any()) for tensor in self.scenario.state.tensors)


def compare_forward(pair: Pair, given: Sequence[Scenario], tolerance: float) -> Section:
    """Compare activations, logits, values, memory, log-probs, entropy and sampled actions.

    Raises:
        UnusablePolicyError: a policy raises or breaks the contract of `Policy.forward`.
    """
    comparisons = [_compare(pair, scenario) for scenario in given]
    measurements = _layer_measurements(comparisons) + [
        measurement for comparison in comparisons for measurement in _distribution_measurements(pair, comparison)
    ]
    steps = _stepwise_measurements(pair, given)
    findings = _layer_findings(pair, comparisons, tolerance)
    if not findings:
        findings = [
            Finding(m.subject, f"differs by {m.difference:.3g}", m.difference)
            for m in measurements
            if m.difference is not None and m.difference > tolerance
        ]
    findings += [
        Finding(m.subject, f"one call of T steps and T calls of one step differ by {m.difference:.3g}", m.difference)
        for m in steps
        if m.difference is not None and m.difference > STEPWISE_TOLERANCE
    ]
    for title, run in zip(pair.titles, ("reference", "candidate"), strict=True):
        wrote = [c for c in comparisons if (c.reference if run == "reference" else c.candidate).wrote_observations]
        if wrote:
            findings.append(Finding("observations", f"{title} writes into the observations that it is given"))
    return Section(
        name="forward",
        tolerance=tolerance,
        summary=f"{len(_compared_layers(measurements))} layers and outputs in {len(given)} scenarios",
        measurements=(*measurements, *steps),
        findings=tuple(findings),
    )


def _compare(pair: Pair, scenario: Scenario) -> _Comparison:
    reference = traced_run(pair.titles[0], pair.reference, scenario)
    candidate = traced_run(pair.titles[1], pair.candidate, scenario)
    checkpoints = compare_layers(reference.trace, renamed(candidate.trace, pair.names), scenario.rows_and_steps)
    return _Comparison(scenario, reference, candidate, checkpoints)


def _compared_layers(measurements: Sequence[Measurement]) -> set[str]:
    return {m.subject for m in measurements if m.difference is not None}


def _layer_measurements(comparisons: Sequence[_Comparison]) -> list[Measurement]:
    """Per layer, in order of execution: the largest difference over all scenarios."""
    largest: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for comparison in comparisons:
        for checkpoint in comparison.checkpoints:
            if checkpoint.side == "input":
                made = origin(comparison.reference.trace, checkpoint)
                if made.kind == "observations" and checkpoint.difference is not None:
                    largest[made.layer] = max(checkpoint.difference, largest.get(made.layer) or 0.0)
                continue
            known = largest.get(checkpoint.layer)
            if checkpoint.difference is None:
                largest.setdefault(checkpoint.layer, None)
                notes[checkpoint.layer] = f"{checkpoint.note} ({comparison.scenario.name})"
            else:
                largest[checkpoint.layer] = max(checkpoint.difference, known or 0.0)
    results = ("logits", "values", "state ")
    order = sorted(largest, key=lambda layer: layer.startswith(results))
    return [
        Measurement(layer, largest[layer], "" if largest[layer] is not None else notes.get(layer, ""))
        for layer in order
    ]


def _distribution_measurements(pair: Pair, comparison: _Comparison) -> list[Measurement]:
    """The verbs of training on the same scenario; nobody listens to the modules here, so fast paths are taken."""
    scenario = comparison.scenario
    evaluations, actions = [], []
    with torch.no_grad():
        for title, policy in zip(pair.titles, (pair.reference, pair.candidate), strict=True):
            evaluations.append(
                guarded(
                    title,
                    f"evaluate_actions ({scenario.name})",
                    lambda policy=policy: policy.evaluate_actions(
                        scenario.observations, scenario.actions, scenario.state, scenario.resets
                    ),
                )
            )
            generator = torch.Generator(scenario.observations.device).manual_seed(1)
            first = scenario.step(0, scenario.state)
            step = guarded(
                title,
                f"act ({scenario.name})",
                lambda policy=policy, generator=generator, first=first: policy.act(
                    first.observations[:, 0], first.state, first.resets[:, 0], generator
                ),
            )
            actions.append(step.actions)
    ours, theirs = evaluations
    return [
        Measurement(f"log-probs, {scenario.name}", largest_difference(ours.log_probs, theirs.log_probs)),
        Measurement(f"entropy, {scenario.name}", largest_difference(ours.entropy, theirs.entropy)),
        Measurement(f"values, {scenario.name}", largest_difference(ours.values, theirs.values)),
        Measurement(f"sampled actions, {scenario.name}", largest_difference(actions[0], actions[1])),
    ]


def _stepwise_measurements(pair: Pair, given: Sequence[Scenario]) -> list[Measurement]:
    """Each policy against itself: T calls of one step against one call of T steps."""
    measurements = []
    for scenario in given:
        if scenario.rows_and_steps[1] == 1:
            continue
        for title, policy in zip(pair.titles, (pair.reference, pair.candidate), strict=True):
            difference = guarded(
                title,
                f"forward step by step ({scenario.name})",
                lambda policy=policy, scenario=scenario: _stepwise_difference(policy, scenario),
            )
            measurements.append(
                Measurement(
                    f"T calls of one step against one call, {title}, {scenario.name}",
                    difference,
                    limit=STEPWISE_TOLERANCE,
                )
            )
    return measurements


@torch.no_grad()
def _stepwise_difference(policy: Policy, scenario: Scenario) -> float:
    whole = policy(scenario.observations, scenario.state, scenario.resets)
    state = scenario.state
    largest = 0.0
    for index in range(scenario.rows_and_steps[1]):
        step = scenario.step(index, state)
        output = policy(step.observations, state, step.resets)
        state = output.state
        for ours, theirs in ((whole.logits, output.logits), (whole.values, output.values)):
            largest = max(largest, largest_difference(ours[:, index], theirs[:, 0]))
    for ours, theirs in zip(whole.state.tensors, state.tensors, strict=True):
        largest = max(largest, largest_difference(ours, theirs))
    return largest


# ----- the first difference and its cause


def _layer_findings(pair: Pair, comparisons: Sequence[_Comparison], tolerance: float) -> list[Finding]:
    for comparison in comparisons:
        # From an empty memory, a memory that is not updated and one that is dropped look the same.
        places = [c for c in comparison.checkpoints if comparison.has_memory or not c.layer.startswith("state ")]
        place = first_difference(places, tolerance)
        if place is not None:
            return [_finding(pair, comparisons, comparison, place)]
    return []


def _finding(pair: Pair, comparisons: Sequence[_Comparison], comparison: _Comparison, place: Checkpoint) -> Finding:
    made = _made_by(comparison.reference.trace, place)
    causes = _first_explanations(_stages(pair, comparisons, comparison, place, made))
    if place.side == "output" and made is None:
        subject, message = place.layer, f"{place.layer} gives other values for the same input"
    else:
        assert made is not None
        subject = made.layer
        if made.kind == "state":
            message = f"{made.layer} starts from another memory"
        elif place.side == "output":
            message = f"what {made.layer} gives is right, but the {place.layer} made of it differ"
        else:
            message = f"what {made.layer} gives reaches {place.layer} in another form"
            if made.kind == "observations":
                message = f"{made.layer} gives {place.layer} something else for the same observations"
    share = 1.0
    if place.candidate is not None:
        share = float((place.reference != place.candidate).float().mean())
    return Finding(
        subject=subject,
        message=f"{message} (first seen in: {comparison.scenario.name}; {share:.0%} of the numbers differ)",
        difference=place.difference,
        causes=causes,
    )


def _made_by(trace: Trace, place: Checkpoint) -> Origin | None:
    """What stands before a place; None for what a layer itself gives out."""
    is_layer_output = place.side == "output" and place.layer not in trace.outputs
    return None if is_layer_output else origin(trace, place)


def _first_explanations(stages: Iterator[Iterator[Cause]]) -> tuple[Cause, ...]:
    """The causes of the first stage that finds any: later stages would say the same in other words."""
    for stage in stages:
        causes = tuple(dict.fromkeys(itertools.islice(stage, MAX_CAUSES)))
        if causes:
            return causes
    return ()


def _stages(
    pair: Pair,
    comparisons: Sequence[_Comparison],
    comparison: _Comparison,
    place: Checkpoint,
    made: Origin | None,
) -> Iterator[Iterator[Cause]]:
    """Groups of usual mistakes to try at `place`, the most likely group first."""
    candidate = place.candidate
    if candidate is None:
        return
    trace, scenario = comparison.reference.trace, comparison.scenario
    layer = place.layer if made is None else made.layer
    where = f"what {layer} gives"
    if place.layer.startswith("state "):
        states = comparison.reference.output.state, comparison.candidate.output.state
        yield explaining_state_mistakes(scenario.state, *states, scenario.resets)
    elif made is None:
        yield _parameter_causes(pair, scenario, place, layer)
    elif made.kind == "observations":
        yield _observation_causes(pair, scenario, place)
    elif made.kind == "state":
        where = f"the memory that {layer} starts from"
    else:
        if comparison.has_memory and _takes_memory(trace, layer):
            yield _memory_causes(pair, comparisons)
        if made.tensor is not None:
            yield activation_mistakes(layer, made.tensor, place.reference, candidate)
        yield _parameter_causes(pair, scenario, place, layer)
        yield wiring_mistakes(place.layer, candidate, _other_tensors(trace, place), where)
        where = f"{where} to {place.layer}" if place.side == "input" else f"the output {place.layer!r}"
    if comparison.has_memory:
        yield _memory_causes(pair, comparisons)
    yield tensor_mistakes(where, place.reference, candidate, scenario.rows_and_steps)


def _takes_memory(trace: Trace, layer: str) -> bool:
    for call in layer_calls(trace):
        if call.layer == layer:
            for source in call.sources:
                way = trace.way_back(source)
                if not way.layers and any(name.startswith("state ") for name in way.inputs):
                    return True
    return False


@torch.no_grad()
def _memory_causes(pair: Pair, comparisons: Sequence[_Comparison]) -> Iterator[Cause]:
    with_memory = [(c.scenario, c.candidate.output) for c in comparisons if c.has_memory]
    found = [
        *explaining_memory_mistakes(pair.reference, with_memory, len(pair.reference.state_shapes)),
        *explaining_axis_mistakes(pair.reference, with_memory),
    ]
    yield from found


@torch.no_grad()
def _parameter_causes(pair: Pair, scenario: Scenario, place: Checkpoint, layer: str) -> Iterator[Cause]:
    named = dict(pair.reference.named_parameters())
    own = {name.removeprefix(f"{layer}."): p.detach() for name, p in named.items() if owner(name) == layer}
    module = _submodule(pair.reference, layer)
    for mistake in parameter_mistakes(layer, own, module):
        wrong = copy.deepcopy(pair.reference)
        parameters = dict(wrong.named_parameters())
        for name, values in mistake.values.items():
            full = f"{layer}.{name}" if f"{layer}.{name}" in parameters else name
            parameters[full].copy_(values)
        tensor = _at(traced_run(pair.titles[0], wrong, scenario).trace, place, scenario)
        if tensor is not None and place.candidate is not None and roughly_equal(tensor, place.candidate):
            yield mistake.cause


def _submodule(policy: Policy, path: str) -> nn.Module | None:
    modules = dict(policy.named_modules())
    return modules.get(path)


def _at(trace: Trace, place: Checkpoint, scenario: Scenario) -> Tensor | None:
    """The tensor at the same place of another run of the reference."""
    for checkpoint in compare_layers(trace, trace, scenario.rows_and_steps):
        if (checkpoint.layer, checkpoint.side, checkpoint.number) == (place.layer, place.side, place.number):
            return checkpoint.reference
    return None


def _observation_causes(pair: Pair, scenario: Scenario, place: Checkpoint) -> Iterator[Cause]:
    observation = pair.reference.spec.observation
    if not isinstance(observation, TokenObservation) or place.reference.dim() != 4 or place.candidate is None:
        return
    tokens = scenario.observations.flatten(0, 1).cpu()
    for rules, cause in token_mistakes():
        painted = paint(observation, tokens, rules)
        if painted.shape == place.candidate.shape and roughly_equal(painted, place.candidate):
            yield cause
            return


def _other_tensors(trace: Trace, place: Checkpoint) -> list[tuple[str, Tensor]]:
    """Floating-point tensors of the reference elsewhere in the network, with words for them."""
    found: list[tuple[str, Tensor]] = []
    for index, operation in enumerate(trace.operations):
        for tensor in operation.outputs:
            if not tensor.dtype.is_floating_point or tensor.numel() != place.reference.numel() or index == place.source:
                continue
            if operation.parameters:
                name = f"what {owner(operation.parameters[0])} gives"
            else:
                layers = [owner(trace.operations[k].parameters[0]) for k in trace.way_back(index).layers]
                name = f"{operation.name} of {' and '.join(dict.fromkeys(layers)) or 'the observations'}"
            found.append((name, tensor))
    return found
