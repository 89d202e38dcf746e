"""Help of the sibling commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import run_python

SIBLINGS = ("eval", "export", "parity", "play", "runs", "sweep_search")


@pytest.mark.parametrize("sibling", SIBLINGS)
def test_help_fits_into_80_columns_and_commands_stay_whole(sibling: str, tmp_path: Path) -> None:
    told = run_python(["-m", f"metta_train.cli.{sibling}", "--help"], tmp_path, COLUMNS="80").out.splitlines()
    too_long = [line for line in told if len(line) > 80]
    assert all(line.startswith(("usage: ", "  metta-")) for line in too_long), too_long
    examples = [line for line in told if line.startswith("  metta-")]
    assert len(examples) > 3 and not any(line.rstrip().endswith(("-", "=")) for line in examples)


def test_what_an_example_does_stands_beside_it_or_below(tmp_path: Path) -> None:
    told = {
        columns: run_python(["-m", "metta_train.cli.play", "--help"], tmp_path, COLUMNS=columns).out
        for columns in ("50", "80")
    }
    assert "--steps 100  a film; --mp4 needs the extra\n" + " " * 46 + "video\n" in told["80"]
    assert "--steps 100\n      a film; --mp4 needs the extra video\n" in told["50"]
