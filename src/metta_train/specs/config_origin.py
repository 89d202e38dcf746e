"""What a configuration was composed of: overrides, and files that are not metta-train's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConfigOrigin:
    """Recorded with a run."""

    overrides: tuple[str, ...] = ()  # as on the command line

    search_path: tuple[str, ...] = ()  # absolute folders that were searched after metta-train's own, in this order
    own_files: tuple[str, ...] = ()  # "agent=slim: /home/me/conf/agent/slim.yaml"


SHIPPED = ConfigOrigin()
