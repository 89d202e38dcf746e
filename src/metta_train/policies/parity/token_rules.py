"""What a token box would look like under other rules than ours: slow, plain, and only for finding mistakes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from metta_train.policies.parity.findings import Cause
from metta_train.specs.environment_spec import GLOBAL_LOCATION, PADDING_LOCATION, TokenObservation


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Ours by default (DESIGN, "Fast network")."""

    duplicates: Literal["last", "first", "sum", "max"] = "last"
    global_tokens: Literal["centre", "dropped", "first cell"] = "centre"
    outside: Literal["ignored", "spilled", "clamped"] = "ignored"
    unknown: Literal["ignored", "last channel", "first channel"] = "ignored"
    padding: Literal["ignored", "erases cell 0"] = "ignored"
    normalization: Literal["once", "never", "twice", "of the next feature", "by 255"] = "once"
    categories: Literal["channels", "as a number", "one too low", "one too high"] = "channels"
    channel_order: Literal["of the spec", "of the ids"] = "of the spec"
    swapped: bool = False  # upper and lower nibble of the location
    values: Literal["as they are", "all one"] = "as they are"


_USUAL_MISTAKES: tuple[tuple[TokenRules, Cause], ...] = (
    (
        TokenRules(padding="erases cell 0"),
        Cause("padding-writes", "padding tokens write 0 into cell (0, 0) of the first feature"),
    ),
    (TokenRules(swapped=True), Cause("axes", "height and width of the window are swapped")),
    (TokenRules(global_tokens="dropped"), Cause("global-tokens", "global tokens (location 254) are dropped")),
    (
        TokenRules(global_tokens="first cell"),
        Cause("global-tokens", "global tokens (location 254) are drawn on cell (0, 0), not on the centre"),
    ),
    (
        TokenRules(outside="spilled"),
        Cause("outside-spills", "cells outside the window spill into other cells or features"),
    ),
    (TokenRules(outside="clamped"), Cause("outside-spills", "cells outside the window are moved to its border")),
    (TokenRules(duplicates="first"), Cause("duplicates", "of several tokens of one cell and feature the first wins")),
    (TokenRules(duplicates="sum"), Cause("duplicates", "several tokens of one cell and feature are added up")),
    (TokenRules(duplicates="max"), Cause("duplicates", "of several tokens of one cell and feature the largest wins")),
    (TokenRules(normalization="never"), Cause("normalization", "values are not divided by their normalizations")),
    (TokenRules(normalization="twice"), Cause("normalization", "values are divided by their normalizations twice")),
    (
        TokenRules(normalization="of the next feature"),
        Cause("normalization", "normalizations belong to other features: shifted by one"),
    ),
    (TokenRules(normalization="by 255"), Cause("normalization", "values are divided by 255, not by normalizations")),
    (
        TokenRules(categories="as a number"),
        Cause("categories", "a categorical feature is written as a number into its first channel"),
    ),
    (TokenRules(categories="one too low"), Cause("categories", "category k is written into channel k - 1")),
    (TokenRules(categories="one too high"), Cause("categories", "category k is written into channel k + 1")),
    (TokenRules(unknown="last channel"), Cause("unknown-features", "unknown features are written to the last channel")),
    (
        TokenRules(unknown="first channel"),
        Cause("unknown-features", "unknown features are written to the first channel"),
    ),
    (TokenRules(channel_order="of the ids"), Cause("channel-order", "channels are ordered by feature id")),
    (TokenRules(values="all one"), Cause("values", "every token writes 1 instead of its value")),
)


def token_mistakes() -> tuple[tuple[TokenRules, Cause], ...]:
    """Each usual mistake alone, then the ones of the original that came together."""
    together = (
        (
            TokenRules(outside="spilled", padding="erases cell 0"),
            Cause("padding-writes", "padding writes to cell (0, 0), and cells outside the window spill"),
        ),
        (
            replace(TokenRules(), normalization="never", categories="as a number"),
            Cause("normalization", "values are written as they are: no normalizations, no categories"),
        ),
    )
    return _USUAL_MISTAKES + together


def paint(observation: TokenObservation, tokens: Tensor, rules: TokenRules) -> Tensor:
    """uint8 tokens `[N, M, 3]` -> float32 box `[N, C, H, W]`, token by token."""
    height, width = observation.window_height, observation.window_width
    features = list(observation.features)
    if rules.channel_order == "of the ids":
        features.sort(key=lambda feature: feature.id)
    channels: dict[int, int] = {}
    total = 0
    for feature in features:
        channels[feature.id] = total
        total += feature.num_channels
    by_id = {feature.id: feature for feature in features}
    divisors = _divisors(observation, rules)
    flat = torch.zeros(tokens.shape[0], total * height * width)
    for row, row_tokens in enumerate(tokens.tolist()):
        written: set[int] = set()  # (cell, feature), by place of the feature's first channel
        line = flat[row].tolist()
        for location, feature_id, value in row_tokens:
            if location == PADDING_LOCATION:
                if rules.padding == "erases cell 0":
                    line[0] = 0.0
                continue
            cell = _cell(location, height, width, rules)
            if cell is None:
                continue
            feature = by_id.get(feature_id)
            if feature is None:
                if rules.unknown == "ignored":
                    continue
                channel, number, slot = (total - 1 if rules.unknown == "last channel" else 0), float(value), -1
            else:
                channel, number = channels[feature_id], value / divisors[feature_id]
                slot = channel * height * width + cell
                if rules.values == "all one":
                    number = 1.0
                if feature.categories and rules.categories == "as a number":
                    number = float(value)
                elif feature.categories:
                    if value >= feature.categories:
                        continue
                    move = {"one too low": -1, "one too high": 1}.get(rules.categories, 0)
                    channel, number = channel + (value + move) % feature.categories, 1.0
            place = channel * height * width + cell
            if not 0 <= place < len(line) or (rules.duplicates == "first" and slot in written):
                continue
            if slot in written and feature is not None and feature.categories and rules.duplicates == "last":
                for other in range(feature.num_channels):
                    line[(channels[feature_id] + other) * height * width + cell] = 0.0
            if slot in written and rules.duplicates == "sum":
                line[place] += number
            elif slot in written and rules.duplicates == "max":
                line[place] = max(line[place], number)
            else:
                line[place] = number
            written.add(slot)
        flat[row] = torch.tensor(line)
    return flat.view(tokens.shape[0], total, height, width)


def _cell(location: int, height: int, width: int, rules: TokenRules) -> int | None:
    """Number of the cell, beyond the window too when it spills; None for a token that is not drawn."""
    if location == GLOBAL_LOCATION:
        if rules.global_tokens == "dropped":
            return None
        return 0 if rules.global_tokens == "first cell" else height // 2 * width + width // 2
    row, column = location >> 4, location & 15
    if rules.swapped:
        row, column = column, row
    if row >= height or column >= width:
        if rules.outside == "ignored":
            return None
        if rules.outside == "clamped":
            row, column = min(row, height - 1), min(column, width - 1)
    return row * width + column


def _divisors(observation: TokenObservation, rules: TokenRules) -> dict[int, float]:
    features = observation.features
    match rules.normalization:
        case "never":
            return {feature.id: 1.0 for feature in features}
        case "twice":
            return {feature.id: feature.normalization**2 for feature in features}
        case "by 255":
            return {feature.id: 255.0 for feature in features}
        case "of the next feature":
            following = [*features[1:], features[0]]
            return {a.id: b.normalization for a, b in zip(features, following, strict=True)}
        case _:
            return {feature.id: feature.normalization for feature in features}
