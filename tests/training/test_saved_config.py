"""config.yaml is data, whatever is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.training.run_folder import RunFolder
from metta_train.training.run_paths import RunPaths
from metta_train.training.saved_config import read_config


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "a: [", "!!python/object/apply:os.system ['touch owned']", "a: &x [1]\nb: *x", "a: !env X", "- a\nb: c"],
)
def test_a_tampered_config_is_refused_and_nothing_in_it_runs(tmp_path: Path, text: str) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.paths.config.write_text(text)
        with pytest.raises(ValueError, match=r"config\.yaml"):
            folder.adopt_config({"run": "a"}, resuming=True)
    assert not Path("owned").exists()


@given(text=st.text(max_size=40))
def test_any_config_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    paths = RunPaths.locate(tmp_path_factory.mktemp("fuzz"), "a")
    paths.folder.mkdir(exist_ok=True)
    paths.config.write_text(text, encoding="utf-8", errors="replace")
    try:
        config = read_config(paths)
    except ValueError:
        return
    assert isinstance(config, dict)
