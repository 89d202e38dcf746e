from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metta_train.policies.observation import TokenBox
from metta_train.specs.environment_spec import Feature, TokenObservation


def slow_box(observation: TokenObservation, tokens: list[list[int]]) -> tuple[list[list[list[float]]], int]:
    """One row, token by token, as DESIGN 3 says; returns (box, tokens ignored)."""
    height, width = observation.window_height, observation.window_width
    by_id, first_channels, channels = {}, {}, 0
    for feature in observation.features:
        by_id[feature.id], first_channels[feature.id] = feature, channels
        channels += feature.num_channels
    last: dict[tuple[int, int, int], int] = {}
    ignored = 0
    for location, feature_id, value in tokens:
        if location == 255:
            continue
        row, column = (height // 2, width // 2) if location == 254 else (location >> 4, location & 15)
        feature = by_id.get(feature_id)
        if feature is None or row >= height or column >= width or (feature.categories and value >= feature.categories):
            ignored += 1
            continue
        last[row, column, feature_id] = value
    box = [[[0.0] * width for _ in range(height)] for _ in range(channels)]
    for (row, column, feature_id), value in last.items():
        feature, channel = by_id[feature_id], first_channels[feature_id]
        if feature.categories:
            box[channel + value][row][column] = 1.0
        else:
            box[channel][row][column] = value / feature.normalization
    return box, ignored


OBSERVATION = TokenObservation(
    num_tokens=6,
    window_height=5,
    window_width=3,
    features=(Feature(0, "type"), Feature(4, "hp", 30.0), Feature(9, "tag", 7.0, categories=4)),
)


def boxed(*tokens: tuple[int, int, int], observation: TokenObservation = OBSERVATION) -> torch.Tensor:
    return TokenBox(observation)(torch.tensor([tokens], dtype=torch.uint8))[0]


def nonzero(box: torch.Tensor) -> dict[tuple[int, ...], float]:
    return {tuple(index): box[tuple(index)].item() for index in box.nonzero().tolist()}


def test_upper_nibble_is_the_row_and_channels_follow_the_order_of_features():
    # 0x21: row 2, column 1. Channels: 0 = type, 1 = hp, 2..5 = tag.
    box = boxed((0x21, 4, 15), (0x40, 0, 3))
    assert box.shape == (6, 5, 3)
    assert nonzero(box) == {(1, 2, 1): 0.5, (0, 4, 0): 3.0}


def test_value_k_of_a_categorical_feature_is_one_in_channel_k():
    assert nonzero(boxed((0x02, 9, 0), (0x12, 9, 3))) == {(2, 0, 2): 1.0, (5, 1, 2): 1.0}


def test_cell_0_0_of_feature_0_survives_padding_behind_it():
    assert nonzero(boxed((0, 0, 7), (255, 255, 255), (255, 0, 1))) == {(0, 0, 0): 7.0}


def test_padding_may_lie_in_front():
    assert nonzero(boxed((255, 255, 255), (0x11, 0, 7))) == {(0, 1, 1): 7.0}


def test_global_tokens_are_drawn_on_the_centre_cell():
    assert nonzero(boxed((254, 0, 9))) == {(0, 2, 1): 9.0}


def test_the_last_of_two_tokens_wins_also_when_it_is_zero():
    assert nonzero(boxed((0x11, 0, 5), (0x11, 0, 9))) == {(0, 1, 1): 9.0}
    assert nonzero(boxed((0x11, 0, 5), (0x11, 0, 0))) == {}


def test_the_last_of_two_categories_wins_and_the_first_leaves_nothing():
    assert nonzero(boxed((0x11, 9, 1), (0x11, 9, 3))) == {(5, 1, 1): 1.0}


def test_an_ignored_token_does_not_overwrite():
    assert nonzero(boxed((0x11, 9, 1), (0x11, 9, 200))) == {(3, 1, 1): 1.0}


@pytest.mark.parametrize("token", [(0x03, 0, 5), (0x50, 0, 5), (0xFD, 9, 1), (0x00, 1, 5), (0x00, 255, 5), (0, 9, 4)])
def test_cells_outside_and_unknown_features_are_ignored_and_counted(token):
    box = TokenBox(OBSERVATION)
    tokens = torch.tensor([[token, (255, 255, 255), (0, 0, 1)]], dtype=torch.uint8)
    assert nonzero(box(tokens)[0]) == {(0, 0, 0): 1.0}
    box(tokens)
    assert box.ignored_tokens.item() == 2


def test_all_padding_gives_zeros():
    assert nonzero(boxed(*[(255, 255, 255)] * 6)) == {}


def test_raw_values_without_normalization():
    raw = TokenBox(OBSERVATION, normalize=False)(torch.tensor([[(0x21, 4, 15)]], dtype=torch.uint8))
    assert raw[0, 1, 2, 1] == 15


def test_golden_token_of_the_original():
    observation = TokenObservation(200, 11, 11, tuple(Feature(i, f"f{i}") for i in range(25)))
    assert nonzero(boxed((0x23, 4, 5), observation=observation)) == {(4, 2, 3): 5.0}


def test_nothing_is_saved_in_a_state_dict():
    assert TokenBox(OBSERVATION).state_dict() == {}


@st.composite
def observations_and_tokens(draw):
    ids = draw(st.lists(st.integers(0, 254), min_size=1, max_size=5, unique=True))
    features = tuple(
        Feature(i, f"f{i}", draw(st.sampled_from([1.0, 3.0, 255.0])), draw(st.sampled_from([0, 0, 1, 3, 256])))
        for i in ids
    )
    height, width = draw(st.integers(1, 15)), draw(st.integers(1, 15))
    location = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x10, 254, 255]))  # few places: many duplicates
    feature = st.one_of(st.sampled_from(ids), st.integers(0, 255))
    token = st.tuples(location, feature, st.one_of(st.integers(0, 4), st.integers(0, 255)))
    num_tokens = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(token, min_size=num_tokens, max_size=num_tokens), min_size=1, max_size=3))
    return TokenObservation(num_tokens, height, width, features), rows


@settings(max_examples=150, deadline=None)
@given(observations_and_tokens())
def test_any_tokens_give_what_the_slow_twin_gives(case):
    observation, rows = case
    tokens = torch.tensor(rows, dtype=torch.uint8)
    before = tokens.clone()
    box = TokenBox(observation)
    result = box(tokens)
    slow = [slow_box(observation, row) for row in rows]
    torch.testing.assert_close(result, torch.tensor([b for b, _ in slow]), rtol=0, atol=1e-6)
    assert box.ignored_tokens.item() == sum(ignored for _, ignored in slow)
    assert torch.equal(tokens, before)
