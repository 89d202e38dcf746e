"""The base of every configuration model; a room keeps its models beside the classes that they configure."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """Frozen, typed, and closed: an unknown key is an error, a text is never taken for a number.

    Integers are accepted where a float is expected; nothing else is converted.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=False
    )
