"""The schema of `conf/wandb/`, and whether a key for wandb is configured."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from metta_train.specs.config_model import ConfigModel

DEFAULT_SERVER = "https://api.wandb.ai"


class WandbConfig(ConfigModel):
    """Where a run reports to in Weights & Biases.

    `auto` is online when a key is configured on this machine and offline otherwise; an offline run can be uploaded
    later with `wandb sync`. There is no field for a key: wandb finds it in WANDB_API_KEY or the netrc file.
    """

    mode: Literal["auto", "online", "offline", "off"]
    """auto = online where a key for wandb is configured, else offline; off = no wandb at all."""
    project: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%:]+$")]
    """Project in which the run appears."""
    entity: str | None
    """User or team; null = the default of the account."""
    group: str | None
    """Group of the run; null = the sweep in a multirun, else none."""
    name: str | None
    """Title of the run; null = its name."""
    tags: tuple[str, ...]
    """Tags of the run."""
    notes: str
    """A longer description."""
    job_type: str
    """Kind of job, for filters."""
    video_interval: Annotated[int, Field(ge=0)]
    """Epochs between films of an evaluated episode; a multiple of trainer.simulation.evaluate_interval; 0 = never."""

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        # YAML 1.1 reads an unquoted off as false.
        return "off" if value is False else value

    @field_validator("tags", mode="before")
    @classmethod
    def _list_of_tags(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


def resolved_mode(mode: str, environ: Mapping[str, str], home: Path) -> Literal["online", "offline", "off"]:
    """What `mode` means on this machine; asks no server. WANDB_MODE decides for `auto` when it is set."""
    if mode == "online":
        return "online"
    if mode == "offline":
        return "offline"
    if mode == "off":
        return "off"
    wanted = environ.get("WANDB_MODE", "").lower()
    if wanted == "disabled":
        return "off"
    if wanted in ("offline", "dryrun"):
        return "offline"
    return "online" if has_wandb_key(environ, home) else "offline"


def has_wandb_key(environ: Mapping[str, str], home: Path) -> bool:
    """True when wandb would find a key: in the environment, or for its server in the netrc file."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL") or DEFAULT_SERVER).hostname or ""
    files = [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    return any(_netrc_has(file, host) for file in files)


def _netrc_has(file: Path, host: str) -> bool:
    try:
        entry = netrc.netrc(str(file)).hosts.get(host)
    except (OSError, netrc.NetrcParseError):
        return False
    return entry is not None and bool(entry[2])
