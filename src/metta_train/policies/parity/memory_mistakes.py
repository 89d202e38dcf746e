"""Usual mistakes with memory and time: each is made with the reference, step by step, and its outputs compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metta_train.policies.parity.difference import roughly_equal
from metta_train.policies.parity.findings import Cause
from metta_train.policies.parity.scenarios import Scenario
from metta_train.policies.policy import Policy
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState

# (memory before step t, resets [B, T], t, memory before step 0) -> what the step starts from
MemoryRule = Callable[[RecurrentState, Tensor, int, RecurrentState], RecurrentState]


@dataclass(frozen=True, slots=True)
class MemoryMistake:
    """A wrong rule for the memory that a step starts from."""

    cause: Cause
    rule: MemoryRule


def memory_mistakes(num_tensors: int) -> Iterator[MemoryMistake]:
    """Everything to try, the most usual first; `num_tensors` of the recurrent state."""

    def mistake(kind: str, text: str, rule: MemoryRule) -> MemoryMistake:
        return MemoryMistake(Cause(kind, text), rule)

    yield mistake("resets-ignored", "resets are ignored: memory crosses the ends of episodes", lambda s, r, t, i: s)
    yield mistake(
        "resets-inside-ignored",
        "resets are applied to the first step of a sequence only, not inside it",
        lambda s, r, t, i: s.zero_where(r[:, 0]) if t == 0 else s,
    )
    yield mistake(
        "resets-first-ignored",
        "the reset of the first step of a sequence is ignored",
        lambda s, r, t, i: s if t == 0 else s.zero_where(r[:, t]),
    )
    yield mistake(
        "resets-late",
        "resets are applied one step late: memory is zeroed after the first observation of an episode",
        lambda s, r, t, i: s if t == 0 else s.zero_where(r[:, t - 1]),
    )
    yield mistake(
        "resets-early",
        "resets are applied one step early: memory is zeroed before the last observation of an episode",
        lambda s, r, t, i: s.zero_where(r[:, min(t + 1, r.shape[1] - 1)]),
    )
    yield mistake(
        "resets-all-rows",
        "a reset of one row zeroes the memory of all rows",
        lambda s, r, t, i: s.zero_where(r[:, t].any().expand(r.shape[0])),
    )
    yield mistake(
        "resets-one-row",
        "a reset of one row zeroes the memory of its neighbour",
        lambda s, r, t, i: s.zero_where(r[:, t].roll(1)),
    )
    yield mistake(
        "resets-inverted",
        "resets are inverted: memory is kept where an episode opens and zeroed elsewhere",
        lambda s, r, t, i: s.zero_where(~r[:, t]),
    )
    yield mistake(
        "state-ignored",
        "memory is ignored: every call starts from zero",
        lambda s, r, t, i: _zeros(s) if t == 0 else s.zero_where(r[:, t]),
    )
    yield mistake(
        "state-ignored",
        "memory is ignored: every step starts from zero",
        lambda s, r, t, i: _zeros(s),
    )
    yield mistake(
        "state-not-carried",
        "memory is not carried inside a sequence: every step starts from the memory of the first",
        lambda s, r, t, i: i.zero_where(r[:, t]),
    )
    for kept in range(num_tensors if num_tensors > 1 else 0):
        yield mistake(
            "reset-incomplete",
            f"resets do not reach tensor {kept} of the memory" + _role(kept, num_tensors),
            lambda s, r, t, i, kept=kept: _zero_other_tensors(s, r[:, t], kept),
        )
    yield mistake(
        "reset-incomplete",
        "resets reach the first layer of the memory only",
        lambda s, r, t, i: _zero_layers(s, r[:, t], slice(0, 1)),
    )
    yield mistake(
        "reset-incomplete",
        "resets reach the last layer of the memory only",
        lambda s, r, t, i: _zero_layers(s, r[:, t], slice(-1, None)),
    )
    yield mistake(
        "state-layers-swapped",
        "the layers of the memory are in reverse order when a call begins",
        lambda s, r, t, i: (_flipped(s) if t == 0 else s).zero_where(r[:, t]),
    )
    yield mistake(
        "state-layers-swapped",
        "the layers of the memory are in reverse order at every step",
        lambda s, r, t, i: _flipped(s).zero_where(r[:, t]),
    )
    if num_tensors > 1:
        yield mistake(
            "state-tensors-swapped",
            "the tensors of the memory (hidden and cell) are swapped when a call begins",
            lambda s, r, t, i: (_swapped(s) if t == 0 else s).zero_where(r[:, t]),
        )
    for shift in (1, -1):
        yield mistake(
            "state-rows-shifted",
            "the rows of the memory belong to other rows: shifted by one",
            lambda s, r, t, i, shift=shift: (
                RecurrentState(tuple(x.roll(shift, 0) for x in s.tensors)) if t == 0 else s
            ).zero_where(r[:, t]),
        )


def run_with(policy: Policy, scenario: Scenario, rule: MemoryRule) -> PolicyOutput:
    """The policy on a scenario, one step per call, with another rule for its memory."""
    state = scenario.state
    logits, values = [], []
    no_resets = torch.zeros_like(scenario.resets[:, :1])
    for step in range(scenario.rows_and_steps[1]):
        state = rule(state, scenario.resets, step, scenario.state)
        output = policy(scenario.observations[:, step : step + 1], state, no_resets)
        state = output.state
        logits.append(output.logits)
        values.append(output.values)
    return PolicyOutput(torch.cat(logits, dim=1), torch.cat(values, dim=1), state)


def explaining_memory_mistakes(
    reference: Policy, given: Sequence[tuple[Scenario, PolicyOutput]], num_tensors: int
) -> Iterator[Cause]:
    """The mistakes under which the reference gives the candidate's logits and values in every scenario."""
    seen: list[str] = []
    for mistake in memory_mistakes(num_tensors):
        if mistake.cause.kind in seen:
            continue
        if all(_same_outputs(run_with(reference, scenario, mistake.rule), output) for scenario, output in given):
            seen.append(mistake.cause.kind)
            yield mistake.cause


def explaining_axis_mistakes(reference: Policy, given: Sequence[tuple[Scenario, PolicyOutput]]) -> Iterator[Cause]:
    """Rows and steps confused around the whole network, rather than between two layers."""
    sequences = [(scenario, output) for scenario, output in given if scenario.rows_and_steps[1] > 1]
    if not sequences:
        return

    def reshaped(scenario: Scenario) -> PolicyOutput:
        rows, steps = scenario.rows_and_steps
        mixed = scenario.observations.flatten(0, 1).unflatten(0, (steps, rows)).transpose(0, 1)
        return reference(mixed, scenario.state, scenario.resets)

    def backwards(scenario: Scenario) -> PolicyOutput:
        output = reference(scenario.observations.flip(1), scenario.state, scenario.resets.flip(1))
        return replace(output, logits=output.logits.flip(1), values=output.values.flip(1))

    for text, run in (
        ("observations are reshaped to [T, B] instead of [B, T]", reshaped),
        ("time runs backwards through the memory", backwards),
    ):
        if all(_same_outputs(run(scenario), output) for scenario, output in sequences):
            yield Cause("time-axis", text)


def explaining_state_mistakes(
    before: RecurrentState, reference: RecurrentState, candidate: RecurrentState, resets: Tensor
) -> Iterator[Cause]:
    """What the candidate gives back as its memory, where its logits and values are right."""

    def same(state: RecurrentState) -> bool:
        pairs = zip(state.tensors, candidate.tensors, strict=True)
        return all(roughly_equal(ours, theirs) for ours, theirs in pairs)

    for kind, text, state in (
        ("state-not-updated", "the memory that came in is given back, not the one after the call", before),
        ("state-ignored", "the memory that is given back is all zero", _zeros(reference)),
        ("state-layers-swapped", "the layers of the memory are given back in reverse order", _flipped(reference)),
        ("state-tensors-swapped", "the tensors of the memory are given back in another order", _swapped(reference)),
        (
            "state-rows-shifted",
            "the rows of the memory are given back in another order",
            RecurrentState(tuple(t.roll(1, 0) for t in reference.tensors)),
        ),
        (
            "resets-early",
            "the memory of rows that were reset is given back as zero",
            reference.zero_where(resets[:, -1]),
        ),
        ("state-all-rows", "every row is given back the memory of the first row", _first_row(reference)),
    ):
        if same(state):
            yield Cause(kind, text)
            return


def _same_outputs(ours: PolicyOutput, theirs: PolicyOutput) -> bool:
    return roughly_equal(ours.logits, theirs.logits) and roughly_equal(ours.values, theirs.values)


def _zeros(state: RecurrentState) -> RecurrentState:
    return RecurrentState(tuple(torch.zeros_like(tensor) for tensor in state.tensors))


def _flipped(state: RecurrentState) -> RecurrentState:
    return RecurrentState(tuple(tensor.flip(1) if tensor.dim() > 2 else tensor for tensor in state.tensors))


def _swapped(state: RecurrentState) -> RecurrentState:
    if len({tensor.shape for tensor in state.tensors}) != 1:
        return state
    return RecurrentState(tuple(reversed(state.tensors)))


def _first_row(state: RecurrentState) -> RecurrentState:
    return RecurrentState(tuple(tensor[:1].expand_as(tensor) for tensor in state.tensors))


def _zero_other_tensors(state: RecurrentState, resets: Tensor, kept: int) -> RecurrentState:
    zeroed = state.zero_where(resets)
    return RecurrentState(tuple(state.tensors[k] if k == kept else tensor for k, tensor in enumerate(zeroed.tensors)))


def _zero_layers(state: RecurrentState, resets: Tensor, layers: slice) -> RecurrentState:
    tensors = []
    for tensor, zeroed in zip(state.tensors, state.zero_where(resets).tensors, strict=True):
        mixed = tensor.clone()
        mixed[:, layers] = zeroed[:, layers]
        tensors.append(mixed)
    return RecurrentState(tuple(tensors))


def _role(tensor: int, num_tensors: int) -> str:
    return (" (the hidden state)", " (the cell state)")[tensor] if num_tensors == 2 else ""
