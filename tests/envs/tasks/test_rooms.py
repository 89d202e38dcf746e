"""The map of rooms."""

from __future__ import annotations

import numpy as np
import pytest

from metta_train.envs.tasks.rooms import RoomsMap, RoomsMapConfig


def build(**changes: object) -> np.ndarray:
    values: dict[str, object] = {
        "seed": 1, "rooms": 4, "height": 3, "width": 4, "agents": 2, "objects": {"mine": 3, "altar": 1}, **changes,
    }  # fmt: skip
    return RoomsMap(RoomsMapConfig(**values)).build().grid  # type: ignore[arg-type]  # checked by pydantic


def test_rooms_lie_in_a_square_with_walls_and_gaps() -> None:
    grid = build(room_wall=1, gap=2)
    # Two rooms of (3 + 2) x (4 + 2) each way, 2 cells apart.
    assert grid.shape == (2 * 5 + 2, 2 * 6 + 2)
    assert (grid[0, :6] == "wall").all() and (grid[4, :6] == "wall").all() and (grid[:5, 5] == "wall").all()
    assert (grid[5:7] == "empty").all() and (grid[:, 6:8] == "empty").all()
    for top in (1, 8):
        for left in (1, 9):
            room = grid[top : top + 3, left : left + 4]
            names, counts = np.unique(room, return_counts=True)
            assert dict(zip(names, counts, strict=True)) == {"agent.agent": 2, "altar": 1, "empty": 6, "mine": 3}


def test_a_border_surrounds_the_map() -> None:
    grid = build(rooms=1, border=2)
    assert grid.shape == (7, 8)
    assert (grid[:2] == "wall").all() and (grid[:, -2:] == "wall").all()
    assert not (grid[2:-2, 2:-2] == "wall").any()


def test_the_map_is_a_function_of_its_seed() -> None:
    np.testing.assert_array_equal(build(seed=3), build(seed=3))
    assert not np.array_equal(build(seed=3), build(seed=4))
    rooms = build(seed=3)
    assert not np.array_equal(rooms[:3, :4], rooms[3:, :4])  # every room is drawn for itself


def test_a_room_that_is_too_full_is_refused() -> None:
    with pytest.raises(ValueError, match="a room of 3x4 cells cannot hold 13 things"):
        build(agents=9)
