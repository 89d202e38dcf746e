import pytest

from metta_train.policies.action_rows import ActionRows
from metta_train.specs.action_table import ActionTable


def test_the_kth_new_name_owns_row_k_plus_one():
    rows = ActionRows()
    assert rows.rows_of(ActionTable.discrete(["noop", "move", "use"])) == (1, 2, 3)


def test_names_keep_their_rows_when_reordered_and_new_names_come_behind():
    rows = ActionRows()
    rows.rows_of(ActionTable.discrete([f"old_{k}" for k in range(19)]))
    assert rows.rows_of(ActionTable.discrete(["new_a", "old_18", "old_0", "new_b"])) == (20, 19, 1, 21)
    assert rows.names[19:] == ("new_a", "new_b")


def test_99_names_fit_and_the_100th_is_refused_without_a_change():
    rows = ActionRows()
    assert rows.rows_of(ActionTable.discrete([f"a{k}" for k in range(99)]))[-1] == 99
    with pytest.raises(ValueError, match=r"rows for 99 action names and would need 100.*'one_more'"):
        rows.rows_of(ActionTable.discrete(["a0", "one_more"]))
    assert len(rows.names) == 99
