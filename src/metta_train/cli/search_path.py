"""Folders with groups of the user's own.

Of two files with the same name the earlier one wins:

    1  metta-train's own conf/          a shipped name means the same on every machine
    2  --config-dir FOLDER
    3  hydra.searchpath=[file://...]
    4  METTA_TRAIN_SEARCH_PATH          folders divided by colons, in their order
    5  ./conf                           in the folder where the command is given
    6  installed packages               the entry points `metta_train.conf`, by name

A file of folders 2 to 4 that has a shipped name would be ignored; choosing it is an error. In ./conf, which may belong
to another program, and in packages it is a warning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from metta_train.specs.config_errors import ConfigError
from metta_train.specs.config_origin import ConfigOrigin

VARIABLE = "METTA_TRAIN_SEARCH_PATH"
PACKAGES = "metta_train.conf"  # group of entry points whose values are packages that hold YAML files
HERE = "./conf"
HYDRA_KEY = "hydra.searchpath"


@dataclass(frozen=True, slots=True)
class OwnFolder:
    """A folder that is searched after metta-train's own."""

    folder: Path  # absolute
    asked_by: str  # what put it there, for people
    explicit: bool  # named by the user for this purpose


def own_folders(shipped: Path, config_dir: Path | None, searchpath: Sequence[Path] = ()) -> tuple[OwnFolder, ...]:
    """All folders that exist for this start, in the order in which they are searched.

    Args:
        shipped: metta-train's own; it is no folder of the user's, wherever it is named again.
        config_dir: the folder of --config-dir.
        searchpath: the folders of an override of hydra.searchpath.

    Raises:
        ConfigError: a folder that was named does not exist.
    """
    found = [] if config_dir is None else [OwnFolder(config_dir, "--config-dir", explicit=True)]
    found += [OwnFolder(folder, HYDRA_KEY, explicit=True) for folder in searchpath]
    found += [OwnFolder(folder, VARIABLE, explicit=True) for folder in _from_environment()]
    here = Path(HERE).resolve()
    if here.is_dir():
        found.append(OwnFolder(here, HERE, explicit=False))
    found += _from_packages()
    first = {own.folder: own for own in reversed(found)}
    return tuple(own for own in found if first[own.folder] is own and own.folder != shipped.resolve())


def split_searchpath(overrides: Sequence[str]) -> tuple[list[str], tuple[Path, ...]]:
    """Take `hydra.searchpath=[...]` out of the overrides: Hydra reads one such list, and it is to be ours.

    Raises:
        ConfigError: it is no list of folders, or one of them does not exist.
    """
    rest = [override for override in overrides if override.lstrip("+").partition("=")[0] != HYDRA_KEY]
    lists = [override for override in overrides if override not in rest]
    return rest, tuple(folder for override in lists for folder in _folders_of(override))


def origin_of(choices: Mapping[str, object], shipped: Path, own: Sequence[OwnFolder]) -> ConfigOrigin:
    """What to record about a composition that made these choices."""
    files = []
    for group, option in choices.items():
        file = f"{group}/{option}.yaml"
        if not isinstance(option, str) or group.startswith("hydra/") or (shipped / file).is_file():
            continue
        files += [f"{group}={option}: {o.folder / file}" for o in own if (o.folder / file).is_file()][:1]
    return ConfigOrigin(search_path=tuple(str(o.folder) for o in own), own_files=tuple(files))


def shadowed(choices: Mapping[str, object], shipped: Path, own: Sequence[OwnFolder]) -> tuple[str, ...]:
    """Warnings about chosen files that are passed over, because metta-train has one of that name.

    Raises:
        ConfigError: such a file lies in a folder that the user named.
    """
    warnings = []
    for group, option in choices.items():
        file = f"{group}/{option}.yaml"
        for folder in own:
            theirs = folder.folder / file
            if not (isinstance(option, str) and theirs.is_file() and (shipped / file).is_file()):
                continue
            if theirs.read_bytes() == (shipped / file).read_bytes():
                continue
            told = f"{group}={option} is metta-train's own; {theirs} is not used, give it another name"
            if folder.explicit:
                raise ConfigError(f"{told} ({folder.asked_by})")
            warnings.append(told)
    return tuple(warnings)


def _from_environment() -> list[Path]:
    folders = []
    for written in os.environ.get(VARIABLE, "").split(":"):
        if written.strip():
            folder = Path(written).expanduser().resolve()
            if not folder.is_dir():
                raise ConfigError(f"{VARIABLE}: {written}: no such folder")
            folders.append(folder)
    return folders


def _from_packages() -> list[OwnFolder]:
    found = []
    for entry in sorted(entry_points(group=PACKAGES), key=lambda entry: entry.name):
        try:
            spec = find_spec(entry.value)
        except ModuleNotFoundError:
            spec = None
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        if not places:
            distribution = "a package" if entry.dist is None else entry.dist.name
            raise ConfigError(
                f"{distribution}: its entry point {PACKAGES} {entry.name} names no package: {entry.value}"
            )
        found += [OwnFolder(Path(place).resolve(), f"package {entry.value}", explicit=False) for place in places]
    return found


def _folders_of(override: str) -> list[Path]:
    wrong = ConfigError(f"{override}: needs a list of folders, like {HYDRA_KEY}=[file:///home/me/conf]")
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        raise wrong from None
    written = [str(item) for item in value] if isinstance(value, list) else []
    if not written or any("://" in item and not item.startswith("file://") for item in written):
        raise wrong
    folders = [Path(item.removeprefix("file://")).expanduser().resolve() for item in written]
    for item, folder in zip(written, folders, strict=True):
        if not folder.is_dir():
            raise ConfigError(f"{override}: no such folder: {item}")
    return folders
