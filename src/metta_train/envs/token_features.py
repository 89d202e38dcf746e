"""What a policy is told about MettaGrid's token features."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from mettagrid.config.mettagrid_config import GameConfig

from metta_train.envs.config import FeatureOverride, FeatureOverrides
from metta_train.specs.environment_spec import Feature


def token_features(game: GameConfig, overrides: Sequence[FeatureOverrides]) -> tuple[Feature, ...]:
    """The game's features, with the environment's normalization where no override says otherwise.

    Raises:
        ValueError: an override that matches no feature, `categories: auto` where no number is known, or features
            all omitted.
    """
    specs = game.id_map().features()
    names = [spec.name for spec in specs]
    entries = [(pattern, override) for group in overrides for pattern, override in group.items()]
    for pattern, _ in entries:
        if not any(_matches(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"env.features: {pattern!r} matches no feature of this environment; nearest is {near!r}, "
                f"known are {', '.join(names)}"
            )
    features = []
    for spec in specs:
        merged = _merge(override for pattern, override in entries if _matches(spec.name, pattern))
        if merged.omit:
            continue
        categories = merged.categories
        features.append(
            Feature(
                id=spec.id,
                name=spec.name,
                normalization=float(spec.normalization if merged.normalization is None else merged.normalization),
                categories=_number_of_values(game, spec.name) if categories == "auto" else categories or 0,
            )
        )
    if not features:
        raise ValueError("env.features: every feature is omitted; the policy needs at least one")
    return tuple(features)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _merge(overrides: Iterable[FeatureOverride]) -> FeatureOverride:
    """Later ones win, field by field."""
    merged = FeatureOverride()
    for override in overrides:
        given = {name: value for name, value in override if value is not None}
        merged = merged.model_copy(update=given)
    return merged


def _number_of_values(game: GameConfig, name: str) -> int:
    counts = {
        "tag": len(game.id_map().tag_names()),
        "last_action": len(game.actions.actions()),
        "agent_id": game.num_agents,
        "agent:group": len({agent.team_id for agent in game.agents} or {game.agent.team_id}),
        "vibe": len(game.vibe_names),
        "last_action_move": 2,
    }
    if name not in counts:
        raise ValueError(
            f"env.features: categories=auto is not known for feature {name!r}; give a number "
            f"(auto works for {', '.join(sorted(counts))})"
        )
    return counts[name]
