"""The one owner of the mapping between action names, flat indices and (type, argument) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class ActionTable:
    """Ordered action names; the position of a name is the index that a policy's logits use.

    Attributes:
        names: one unique, non-empty name per action.
        max_arguments: for the pair form, the largest argument of each action type (arguments run from 0 to it,
            inclusive); None for a plain `Discrete(n)` table.

    Raises:
        ValueError: no names, a repeated or empty name, or arguments that do not add up to the names.
    """

    names: tuple[str, ...]
    max_arguments: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("action table: got no actions, needs at least one name")
        empty = [index for index, name in enumerate(self.names) if not name]
        if empty:
            raise ValueError(f"action table: name {empty[0]} is empty; every action needs a name")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"action table: names must be unique, got {repeated[0]!r} more than once")
        if self.max_arguments is not None and sum(m + 1 for m in self.max_arguments) != len(self.names):
            raise ValueError(
                f"action table: max_arguments {list(self.max_arguments)} describe "
                f"{sum(m + 1 for m in self.max_arguments)} pairs, got {len(self.names)} names"
            )

    @classmethod
    def discrete(cls, names: Sequence[str]) -> ActionTable:
        """A `Discrete(n)` table: index k is `names[k]`."""
        return cls(names=tuple(names))

    @classmethod
    def from_pairs(cls, types: Sequence[str], max_arguments: Sequence[int]) -> ActionTable:
        """Flatten (type, argument) pairs type-major: all arguments of type 0, then of type 1, ...

        `from_pairs(["attack", "move"], [8, 1])` has 9 + 2 actions, named `attack_0 ... attack_8 move_0 move_1`.
        """
        if len(types) != len(max_arguments):
            raise ValueError(f"action table: got {len(types)} action types and {len(max_arguments)} max_arguments")
        negative = [m for m in max_arguments if m < 0]
        if negative:
            raise ValueError(f"action table: max_arguments must be 0 or more, got {negative[0]}")
        names = tuple(f"{t}_{a}" for t, m in zip(types, max_arguments, strict=True) for a in range(m + 1))
        return cls(names=names, max_arguments=tuple(max_arguments))

    def __len__(self) -> int:
        return len(self.names)

    def index_of(self, action_type: int, argument: int) -> int:
        """Flat index of a pair. Raises ValueError for a pair that does not exist; nothing aliases."""
        arguments = self._pair_arguments()
        if not 0 <= action_type < len(arguments):
            raise ValueError(f"action type {action_type} does not exist; types are 0..{len(arguments) - 1}")
        if not 0 <= argument <= arguments[action_type]:
            raise ValueError(
                f"action type {action_type} takes arguments 0..{arguments[action_type]}, got argument {argument}"
            )
        return self._first_indices()[action_type] + argument

    def pair_of(self, index: int) -> tuple[int, int]:
        """(type, argument) of a flat index; the inverse of `index_of`."""
        arguments = self._pair_arguments()
        if not 0 <= index < len(self.names):
            raise ValueError(f"action index {index} does not exist; indices are 0..{len(self.names) - 1}")
        firsts = self._first_indices()
        action_type = max(t for t in range(len(arguments)) if firsts[t] <= index)
        return action_type, index - firsts[action_type]

    def _pair_arguments(self) -> tuple[int, ...]:
        if self.max_arguments is None:
            raise ValueError("this action table is a plain Discrete table; it has no (type, argument) pairs")
        return self.max_arguments

    def _first_indices(self) -> list[int]:
        return [0, *accumulate(m + 1 for m in self._pair_arguments())][:-1]
