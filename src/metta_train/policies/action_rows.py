"""Which row of the action embedding table each action name owns."""

from __future__ import annotations

from collections.abc import Iterable

from metta_train.specs.action_table import ActionTable

EMBEDDING_ROWS = 100  # row 0 is reserved, so a policy can know 99 action names


class ActionRows:
    """Names in order of first activation; name k owns row k + 1 for as long as the policy lives.

    A policy that moves to an environment with re-ordered or additional actions therefore keeps what it learned
    about the names that it knows.
    """

    def __init__(self, capacity: int = EMBEDDING_ROWS - 1) -> None:
        self._capacity = capacity
        self._names: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Every name ever activated, in order of first activation; what a checkpoint stores."""
        return tuple(self._names)

    def emptied(self) -> ActionRows:
        """Rows of the same capacity that nobody owns."""
        return ActionRows(self._capacity)

    def own(self, names: Iterable[str]) -> None:
        """Give each name that has no row the next free one.

        Raises:
            ValueError: more names than rows; nothing is changed then.
        """
        owned = list(dict.fromkeys([*self._names, *names]))
        if len(owned) > self._capacity:
            raise ValueError(
                f"actions: this policy has rows for {self._capacity} action names and would need {len(owned)} "
                f"({len(self._names)} known, {len(owned) - len(self._names)} new, e.g. {owned[self._capacity]!r})"
            )
        self._names = owned

    def rows_of(self, table: ActionTable) -> tuple[int, ...]:
        """The row of each action of `table`, in its order; new names get rows first."""
        self.own(table.names)
        return tuple(self._names.index(name) + 1 for name in table.names)
