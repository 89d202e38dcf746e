from __future__ import annotations

import pytest
import torch

from metta_train.training.legacy_checkpoint import match_weights, rows_from_one

WANTED = {
    "cnn1.weight": torch.zeros(4, 3),
    "core.weight_ih_l0": torch.zeros(8, 2),
    "value.weight": torch.zeros(1, 5),
    "action.weight": torch.zeros(1, 6, 2),
    "action.bias": torch.zeros(1),
}


def filled(name: str) -> torch.Tensor:
    return torch.full_like(WANTED[name], 2.0)


@pytest.mark.parametrize(
    "names",
    [
        ("components.cnn1._net.weight", "components._core_.net.weight_ih_l0", "components._value_._net.0.weight",
         "components._action_.W", "components._action_.bias"),
        ("policy.cnn1.weight", "lstm.weight_ih_l0", "policy.value_fn.weight", "policy.actor_W", "policy.actor_bias"),
        tuple(WANTED),
    ],
)  # fmt: skip
def test_names_of_the_original(names: tuple[str, ...]) -> None:
    saved = {old: filled(name) for old, name in zip(names, WANTED, strict=True)}
    matched = match_weights(WANTED, saved, renamed={})
    assert matched.differences == ()
    assert tuple(matched.sources[name] for name in WANTED) == names
    assert all(bool((tensor == 2.0).all()) for tensor in matched.weights.values())


def test_what_could_be_two_is_not_guessed() -> None:
    saved = {name: filled(name) for name in WANTED} | {"copy.cnn1.weight": filled("cnn1.weight")}
    matched = match_weights(WANTED, saved, renamed={})
    (difference,) = matched.differences
    assert difference == (
        "cnn1.weight could be any of cnn1.weight, copy.cnn1.weight; choose one with --rename OLD=cnn1.weight"
    )
    assert match_weights(WANTED, saved, renamed={}, left_out=["copy.*"]).differences == ()
    assert match_weights(WANTED, saved, renamed={}, buffers=["copy.cnn1.weight"]).differences == ()
    chosen = match_weights(WANTED, saved, renamed={"copy.cnn1.weight": "cnn1.weight"})
    assert chosen.sources["cnn1.weight"] == "copy.cnn1.weight"
    assert chosen.differences == ("cnn1.weight [4, 3] is unknown here",)


def test_a_renaming_of_nothing_is_told() -> None:
    saved = {name: filled(name) for name in WANTED}
    matched = match_weights(WANTED, saved, renamed={"x": "cnn1.weight", "action.bias": "y"})
    assert "--rename x=...: there is no such tensor" in matched.differences
    assert "--rename ...=y: the policy has no such weight" in matched.differences


def test_rows_move_up_by_one() -> None:
    assert rows_from_one(torch.tensor([[1.0], [2.0], [3.0]])).flatten().tolist() == [3.0, 1.0, 2.0]
