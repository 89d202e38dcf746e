"""Which of a configuration's files are not metta-train's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConfigOrigin:
    """Absolute paths, recorded with a run; both empty when everything is metta-train's own."""

    search_path: tuple[str, ...] = ()  # folders that were searched after metta-train's own, in this order
    own_files: tuple[str, ...] = ()  # "agent=slim: /home/me/conf/agent/slim.yaml"


SHIPPED = ConfigOrigin()
