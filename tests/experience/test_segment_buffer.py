"""Segments: layout, zero copies, states and bootstrap values, and nothing stale."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from metta_train.experience.segment_buffer import SegmentBuffer, Segments
from metta_train.specs.records import PolicyStep
from metta_train.specs.recurrent_state import RecurrentState

R, L, T = 4, 6, 3  # 2 segments per row, 8 in all
PARTS = L // T
SLICES = (slice(0, 2), slice(2, 4))
CPU = torch.device("cpu")
ALL_ROWS = slice(0, R)


def make_buffer(state_shapes: tuple[tuple[int, ...], ...] = ((2, 5), (3,)), steps: int = L) -> SegmentBuffer:
    return SegmentBuffer(R, steps, T, (7, 3), torch.uint8, state_shapes, CPU)


def tag(row: Tensor | int, step: Tensor | int) -> Tensor:
    """A number that names the cell (row, step)."""
    return torch.as_tensor(row) * 10 + torch.as_tensor(step)


def rows_of(rows: slice) -> Tensor:
    return torch.arange(rows.start, rows.stop)


def state_at(rows: slice, step: int) -> RecurrentState:
    tags = tag(rows_of(rows), step).float()
    return RecurrentState((tags.view(-1, 1, 1).expand(-1, 2, 5), -tags.view(-1, 1).expand(-1, 3)))


def fill(buffer: SegmentBuffer, offset: float = 0.0) -> None:
    """One whole rollout in two slices; row 3 is truncated at step 4 with value 123."""
    for step in range(L):
        for rows in SLICES:
            cell = tag(rows_of(rows), step)
            if step % T == 0:
                buffer.begin_segment(step, rows, state_at(rows, step))
            policy_step = PolicyStep(
                actions=cell,
                log_probs=-cell.float() + offset,
                values=cell.float() + 0.25 + offset,
                state=RecurrentState(()),
            )
            observations = cell.to(torch.uint8).view(-1, 1, 1).expand(-1, 7, 3)
            buffer.store_decision(step, rows, observations, cell % 2 == 0, policy_step)
        for rows in SLICES:
            cell = tag(rows_of(rows), step)
            buffer.store_outcome(step, rows, cell.float() + 0.5 + offset, cell % 3 == 0, cell == 34)
        if step == 4:
            buffer.store_truncation_values(step, torch.tensor([3]), torch.tensor([123.0]))


def tensors_of(segments: Segments) -> dict[str, Tensor]:
    found = {f.name: getattr(segments, f.name) for f in dataclasses.fields(segments) if f.name != "state"}
    return found | {f"state.{i}": tensor for i, tensor in enumerate(segments.state.tensors)}


def test_segment_s_is_part_s_mod_parts_of_row_s_div_parts() -> None:
    buffer = make_buffer()
    fill(buffer)
    segments = buffer.segments(torch.zeros(R))
    assert segments.num_segments == R * L // T == 8
    assert segments.observations.shape == (8, T, 7, 3)
    for s in range(8):
        row, part = s // PARTS, s % PARTS
        for t in range(T):
            cell = row * 10 + part * T + t
            assert segments.observations[s, t].unique().tolist() == [cell]
            assert segments.actions[s, t] == cell
            assert segments.log_probs[s, t] == -cell
            assert segments.values[s, t] == cell + 0.25
            assert segments.rewards[s, t] == cell + 0.5
            assert bool(segments.terminations[s, t]) is (cell % 3 == 0)
            assert bool(segments.truncations[s, t]) is (cell == 34)
            assert bool(segments.resets[s, t]) is (cell % 2 == 0)
        opening = row * 10 + part * T
        assert segments.state.tensors[0][s].unique().tolist() == [opening]
        assert segments.state.tensors[1][s].unique().tolist() == [-opening]


def test_dtypes() -> None:
    buffer = make_buffer()
    fill(buffer)
    segments = buffer.segments(torch.zeros(R))
    assert segments.observations.dtype == torch.uint8
    assert segments.actions.dtype == torch.int64
    for flags in (segments.terminations, segments.truncations, segments.resets):
        assert flags.dtype == torch.bool
    for numbers in (segments.log_probs, segments.values, segments.rewards, segments.truncation_values):
        assert numbers.dtype == torch.float32


def test_truncation_value_lands_in_its_cell_and_the_rest_is_zero() -> None:
    buffer = make_buffer()
    fill(buffer)
    truncation_values = buffer.segments(torch.zeros(R)).truncation_values
    # Row 3, step 4 = part 1, step 1 of segment 3 * 2 + 1 = 7.
    assert truncation_values[7, 1] == 123.0
    assert truncation_values.count_nonzero() == 1


def test_bootstrap_is_the_value_of_the_rows_next_segment_or_the_given_one() -> None:
    buffer = make_buffer()
    fill(buffer)
    bootstrap = buffer.segments(torch.tensor([100.0, 101.0, 102.0, 103.0])).bootstrap_values
    # Inside a row: the stored value of (row, step 3) = 10 * row + 3 + 0.25.
    assert bootstrap.tolist() == [3.25, 100.0, 13.25, 101.0, 23.25, 102.0, 33.25, 103.0]


def test_one_segment_per_row_bootstraps_with_the_given_values() -> None:
    buffer = make_buffer(state_shapes=(), steps=T)
    policy_step = PolicyStep(torch.zeros(R, dtype=torch.int64), torch.zeros(R), torch.ones(R), RecurrentState(()))
    flags = torch.zeros(R, dtype=torch.bool)
    buffer.begin_segment(0, ALL_ROWS, RecurrentState(()))
    for step in range(T):
        buffer.store_decision(step, ALL_ROWS, torch.zeros(R, 7, 3, dtype=torch.uint8), flags, policy_step)
        buffer.store_outcome(step, ALL_ROWS, torch.zeros(R), flags, flags)
    segments = buffer.segments(torch.arange(4.0))
    assert segments.bootstrap_values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert segments.state.tensors == ()


def test_segments_are_views() -> None:
    buffer = make_buffer()
    fill(buffer)
    first = tensors_of(buffer.segments(torch.zeros(R)))
    again = tensors_of(buffer.segments(torch.zeros(R)))
    assert {name: t.data_ptr() for name, t in first.items()} == {name: t.data_ptr() for name, t in again.items()}
    assert all(tensor.is_contiguous() for tensor in first.values())


def test_a_fresh_rollout_overwrites_everything() -> None:
    buffer = make_buffer()
    fill(buffer)
    poisoned = tensors_of(buffer.segments(torch.zeros(R)))  # views, so this reaches the storage
    for tensor in poisoned.values():
        tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
    fill(buffer)
    fresh = make_buffer()
    fill(fresh)
    expected = tensors_of(fresh.segments(torch.ones(R)))
    for name, tensor in tensors_of(buffer.segments(torch.ones(R))).items():
        assert torch.equal(tensor, expected[name]), name


def test_select_copies_the_segments_in_the_order_of_the_index() -> None:
    buffer = make_buffer()
    fill(buffer)
    segments = buffer.segments(torch.zeros(R))
    index = torch.tensor([5, 0, 5])
    expected = {name: tensor[index].clone() for name, tensor in tensors_of(segments).items()}
    selected = segments.select(index)
    fill(buffer, offset=1000.0)  # a copy does not follow the storage
    for name, tensor in tensors_of(selected).items():
        assert torch.equal(tensor, expected[name]), name


def test_stored_numbers_carry_no_gradient() -> None:
    buffer = make_buffer()
    with torch.inference_mode():
        fill(buffer)
    segments = buffer.segments(torch.zeros(R))
    weight = torch.ones((), requires_grad=True)
    (weight * segments.rewards).sum().backward()  # an inference tensor could not be saved for backward
    assert weight.grad is not None


def test_steps_must_be_a_multiple_of_the_horizon() -> None:
    with pytest.raises(AssertionError, match="no multiple of the horizon 3"):
        SegmentBuffer(R, 7, T, (7, 3), torch.uint8, (), CPU)


def test_an_incomplete_rollout_is_refused() -> None:
    buffer = make_buffer()
    fill(buffer)
    buffer.begin_segment(0, SLICES[0], state_at(SLICES[0], 0))
    with pytest.raises(AssertionError, match="rollout not complete"):
        buffer.segments(torch.zeros(R))


def test_steps_out_of_order_are_refused() -> None:
    buffer = make_buffer()
    flags = torch.zeros(R, dtype=torch.bool)
    with pytest.raises(AssertionError, match="does not open a segment"):
        buffer.begin_segment(1, ALL_ROWS, state_at(ALL_ROWS, 1))
    with pytest.raises(AssertionError, match="outcome of step 0 without its decision"):
        buffer.store_outcome(0, ALL_ROWS, torch.zeros(R), flags, flags)
