"""Where `conf/` is: inside the installed package, or at the root of a source checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import metta_train
from metta_train.cli.search_path import OwnFolder, own_folders

CONFIG_NAME = "train"


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where configurations come from; `cli/search_path.py` tells which further folders are searched."""

    folder: Path  # holds the root configuration
    name: str = CONFIG_NAME
    extra_folder: Path | None = None  # groups of the user's own, as given by --config-dir
    searchpath: tuple[Path, ...] = ()  # as given by hydra.searchpath

    def own_folders(self) -> tuple[OwnFolder, ...]:
        """The user's own, in the order in which they are searched. Raises ConfigError."""
        return own_folders(self.folder, self.extra_folder, self.searchpath)


def conf_folder() -> Path:
    """The folder with the root configuration and its groups.

    A wheel carries conf/ inside the package. A checkout (PYTHONPATH=src, or an editable install) has it beside src/.
    """
    package = Path(metta_train.__file__).resolve().parent
    packaged, checkout = package / "conf", package.parents[1] / "conf"
    folder = packaged if packaged.is_dir() else checkout
    assert (folder / f"{CONFIG_NAME}.yaml").is_file(), f"neither {packaged} nor {checkout} holds {CONFIG_NAME}.yaml"
    return folder
