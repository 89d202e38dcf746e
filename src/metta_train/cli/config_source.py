"""Where `conf/` is: inside the installed package, or at the root of a source checkout."""

from __future__ import annotations

from pathlib import Path

import metta_train

CONFIG_NAME = "train"


def conf_folder() -> Path:
    """The folder with the root configuration and its groups.

    A wheel carries conf/ inside the package. A checkout (PYTHONPATH=src, or an editable install) has it beside src/.
    """
    package = Path(metta_train.__file__).resolve().parent
    packaged, checkout = package / "conf", package.parents[1] / "conf"
    folder = packaged if packaged.is_dir() else checkout
    assert (folder / f"{CONFIG_NAME}.yaml").is_file(), f"neither {packaged} nor {checkout} holds {CONFIG_NAME}.yaml"
    return folder
