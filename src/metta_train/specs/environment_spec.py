"""What a policy may know of an environment: policies are built from this record, never from an env."""

from __future__ import annotations

import math
from dataclasses import dataclass

from metta_train.specs.action_table import ActionTable

PADDING_LOCATION = 255  # a token with this location byte is empty
GLOBAL_LOCATION = 254  # MettaGrid's location byte for tokens about the agent or the game; drawn on the centre cell


@dataclass(frozen=True, slots=True)
class Feature:
    """One kind of observation token.

    Attributes:
        id: the feature byte of its tokens, 0..254.
        name: unique within an observation.
        normalization: a scalar feature's value is divided by this before the network sees it; finite, > 0.
        categories: 0 for a scalar feature (one channel); n > 0 gives n channels, and value k in 0..n-1 puts 1
            into channel k (values of n and above are unknown and ignored). Normalization is not used then.
    """

    id: int
    name: str
    normalization: float = 1.0
    categories: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.id <= 254:
            raise ValueError(f"feature {self.name!r}: id must be in 0..254, got {self.id}")
        if not (math.isfinite(self.normalization) and self.normalization > 0):
            raise ValueError(f"feature {self.name!r}: normalization must be finite and > 0, got {self.normalization}")
        if not 0 <= self.categories <= 256:
            raise ValueError(f"feature {self.name!r}: categories must be in 0..256, got {self.categories}")

    @property
    def num_channels(self) -> int:
        """Channels that the feature takes in the box: 1, or `categories`."""
        return self.categories or 1


@dataclass(frozen=True, slots=True)
class TokenObservation:
    """uint8 tokens `[num_tokens, 3]` = (location byte, feature id, value).

    The upper nibble of the location byte is the row of the cell (0..window_height-1), the lower nibble its column;
    255 marks padding and 254 the global tokens, which belong to the centre cell.
    """

    num_tokens: int
    window_height: int
    window_width: int
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        if self.num_tokens < 1:
            raise ValueError(f"token observation: num_tokens must be at least 1, got {self.num_tokens}")
        for side, cells in (("window_height", self.window_height), ("window_width", self.window_width)):
            if not 1 <= cells <= 15:
                raise ValueError(f"token observation: {side} must be in 1..15 (a nibble), got {cells}")
        if not self.features:
            raise ValueError("token observation: got no features, needs at least one")
        ids = [str(feature.id) for feature in self.features]
        names = [feature.name for feature in self.features]
        for what, values in (("ids", ids), ("names", names)):
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"token observation: feature {what} must be unique, got {repeated[0]} more than once")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_tokens, 3)

    @property
    def dtype(self) -> str:
        return "uint8"

    @property
    def num_channels(self) -> int:
        """Channels of the box `[channels, window_height, window_width]`."""
        return sum(feature.num_channels for feature in self.features)


@dataclass(frozen=True, slots=True)
class BoxObservation:
    """A dense array of fixed shape, as in `gymnasium.spaces.Box`; `dtype` is a NumPy dtype name."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if any(side < 1 for side in self.shape):
            raise ValueError(f"box observation: every side must be at least 1, got shape {list(self.shape)}")


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """Name, agents per env, observation and actions of one environment."""

    name: str
    num_agents: int
    observation: TokenObservation | BoxObservation
    actions: ActionTable

    def __post_init__(self) -> None:
        if self.num_agents < 1:
            raise ValueError(f"environment spec {self.name!r}: num_agents must be at least 1, got {self.num_agents}")
