from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.specs.action_table import ActionTable

TYPES = ["attack", "get_items", "move", "noop", "put_items", "rotate", "swap"]
ARGUMENTS = [8, 0, 1, 3, 0, 0, 0]


@st.composite
def pair_tables(draw) -> ActionTable:
    arguments = draw(st.lists(st.integers(0, 12), min_size=1, max_size=8))
    return ActionTable.from_pairs([f"type{k}" for k in range(len(arguments))], arguments)


@given(pair_tables())
def test_every_index_is_one_pair_and_the_other_way_round(table: ActionTable) -> None:
    assert table.max_arguments is not None
    pairs = [table.pair_of(index) for index in range(len(table))]
    assert pairs == [(t, a) for t, largest in enumerate(table.max_arguments) for a in range(largest + 1)], "type-major"
    assert [table.index_of(*pair) for pair in pairs] == list(range(len(table)))
    assert [table.names[table.index_of(t, a)] for t, a in pairs] == [f"type{t}_{a}" for t, a in pairs]


@given(pair_tables(), st.integers(-3, 20), st.integers(-3, 20))
def test_a_pair_that_does_not_exist_is_refused_and_aliases_nothing(
    table: ActionTable, kind: int, argument: int
) -> None:
    assert table.max_arguments is not None
    if 0 <= kind < len(table.max_arguments) and 0 <= argument <= table.max_arguments[kind]:
        assert table.pair_of(table.index_of(kind, argument)) == (kind, argument)
    else:
        with pytest.raises(ValueError, match=f"action type {kind} "):
            table.index_of(kind, argument)


@given(pair_tables(), st.integers(-30, 200))
def test_an_index_that_does_not_exist_is_refused(table: ActionTable, index: int) -> None:
    if 0 <= index < len(table):
        table.pair_of(index)
    else:
        with pytest.raises(ValueError, match=f"action index {index} does not exist"):
            table.pair_of(index)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=20, unique=True))
def test_discrete_keeps_names_as_they_are(names: list[str]) -> None:
    table = ActionTable.discrete(names)
    assert table.names == tuple(names) and len(table) == len(names)
    with pytest.raises(ValueError, match="no \\(type, argument\\) pairs"):
        table.pair_of(0)
    with pytest.raises(ValueError, match="no \\(type, argument\\) pairs"):
        table.index_of(0, 0)


def test_golden_numbers_of_the_original() -> None:
    """Reference 14. Its index of (1, 1) was 10, which is (2, 0): here it is refused."""
    table = ActionTable.from_pairs(TYPES, ARGUMENTS)
    assert len(table) == 19
    assert (table.index_of(2, 1), table.index_of(3, 3), table.index_of(6, 0)) == (11, 15, 18)
    assert (table.pair_of(11), table.pair_of(15), table.pair_of(18)) == ((2, 1), (3, 3), (6, 0))
    assert table.pair_of(10) == (2, 0)
    with pytest.raises(ValueError, match=r"takes arguments 0\.\.0, got argument 1"):
        table.index_of(1, 1)
    # cumulative sums of the largest arguments plus the type's own number: [0, 8, 8, 9, 12, 12, 12] + [0, 1, ... 6]
    assert [table.index_of(kind, 0) for kind in range(7)] == [0, 9, 10, 12, 16, 17, 18]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActionTable.discrete([]), "got no actions"),
        (lambda: ActionTable.discrete(["a", ""]), "name 1 is empty"),
        (lambda: ActionTable.discrete(["a", "b", "a"]), "'a' more than once"),
        (lambda: ActionTable.from_pairs(["a"], [1, 2]), "1 action types and 2 max_arguments"),
        (lambda: ActionTable.from_pairs(["a"], [-1]), "must be 0 or more, got -1"),
        (lambda: ActionTable(("a", "b"), (0,)), r"\[0\] describe 1 pairs, got 2 names"),
    ],
)
def test_impossible_tables_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
