"""Overrides of what the policy is told about features."""

from __future__ import annotations

import pytest
from mettagrid.config.mettagrid_config import MettaGridConfig

from metta_train.envs.config import FeatureOverride, FeatureOverrides
from metta_train.envs.token_features import token_features
from metta_train.specs.environment_spec import Feature


def features(*overrides: FeatureOverrides) -> dict[str, Feature]:
    game = MettaGridConfig.EmptyRoom(num_agents=3).game
    return {feature.name: feature for feature in token_features(game, overrides)}


def test_without_overrides_everything_comes_from_the_environment() -> None:
    game = MettaGridConfig.EmptyRoom(num_agents=3).game
    expected = [(spec.id, spec.name, spec.normalization, 0) for spec in game.id_map().features()]
    got = [(f.id, f.name, f.normalization, f.categories) for f in features().values()]
    assert got == expected and len(got) > 30


def test_patterns_and_names_and_the_last_one_wins() -> None:
    got = features(
        {"inv:*": FeatureOverride(normalization=5), "inv:heart": FeatureOverride(normalization=7.0)},
        {"inv:ore_*": FeatureOverride(categories=3), "tag": FeatureOverride(categories="auto")},
    )
    assert got["inv:laser"].normalization == 5.0
    assert got["inv:heart"].normalization == 7.0
    assert (got["inv:ore_red"].normalization, got["inv:ore_red"].categories) == (5.0, 3)  # field by field
    assert got["tag"].categories == 2  # type:agent and type:wall
    assert (
        features({"tag": FeatureOverride(categories="auto")}, {"tag": FeatureOverride(categories=0)})["tag"].categories
        == 0
    )


def test_auto_counts_what_the_game_has() -> None:
    names = ("tag", "last_action", "agent_id", "agent:group", "vibe")
    got = features({name: FeatureOverride(categories="auto") for name in names})
    game = MettaGridConfig.EmptyRoom(num_agents=3).game
    expected = [2, len(game.actions.actions()), 3, 1, len(game.vibe_names)]
    assert [got[name].categories for name in names] == expected


def test_omitted_features_are_gone_and_ids_keep_their_gaps() -> None:
    got = features({"inv:*": FeatureOverride(omit=True), "inv:heart": FeatureOverride(omit=False)})
    assert [name for name in got if name.startswith("inv:")] == ["inv:heart"]
    assert got["inv:heart"].id == features()["inv:heart"].id


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ({"tagg": FeatureOverride(categories=2)}, r"env\.features: 'tagg' matches no feature .* nearest is 'tag'"),
        ({"inw:*": FeatureOverride(omit=True)}, r"'inw:\*' matches no feature"),
        (
            {"last_reward": FeatureOverride(categories="auto")},
            r"categories=auto is not known for feature 'last_reward'",
        ),
        ({"*": FeatureOverride(omit=True)}, r"every feature is omitted"),
    ],
)
def test_overrides_without_effect_are_refused(override: FeatureOverrides, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        features(override)
