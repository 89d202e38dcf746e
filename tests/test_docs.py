"""Docs do not rot: tests named in them exist, files shown in them work, and their commands run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import run_program

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted([*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md"])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Shown in docs with a full-size run behind them; here they train for seconds. `make` is tried by hand in a clean clone.
QUICK = ["trainer=smoke"]
SHORT_EPISODES = {
    "resume": ["env.max_steps=20"],
    "runs": ["env.max_steps=20"],
    "play": ["env.max_steps=20"],
    "sweeps": ["env.max_steps=16"],
    "tour": ["env.max_steps=20"],
}  # pages whose commands need runs in which episodes ended
FEW_TRIALS = 3  # of a search
FEW_STEPS = 3072  # of a training that the page gives a length
PROGRAMS = {
    "metta-train": "metta_train",
    "metta-eval": "metta_train.cli.eval",
    "metta-export": "metta_train.cli.export",
    "metta-parity": "metta_train.cli.parity",
    "metta-play": "metta_train.cli.play",
    "metta-runs": "metta_train.cli.runs",
    "metta-sweep": "metta_train.cli.sweep_search",
}
LENGTH = "trainer.total_timesteps="
NOT_RUN = ("make ", "git ", "pip ", "cd ", "eval ", "python scripts/", "scripts/", "python -m pytest ")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return FENCE.findall(page.read_text())


def shown_commands(page: Path) -> list[str]:
    """The lines of `sh` blocks that call this project's programs."""
    lines = [line.strip() for language, text in blocks(page) if language == "sh" for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *NOT_RUN))]


def test_tests_named_in_docs_exist() -> None:
    named = {
        reference for page in PAGES for reference in re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", page.read_text())
    }
    assert len(named) > 30
    for reference in named:
        path, _, name = reference.partition("::")
        assert (REPOSITORY / path).exists(), reference
        assert not name or f"def {name}(" in (REPOSITORY / path).read_text(), reference


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_shell_blocks_are_what_a_shell_understands() -> None:
    for page in PAGES:
        for language, text in blocks(page):
            if language in ("sh", "bash"):
                read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
                assert read.returncode == 0 and not read.stderr, f"{page.name}: {read.stderr}"


@pytest.mark.parametrize("page", [p for p in PAGES if shown_commands(p)], ids=lambda p: p.stem)
def test_shown_files_and_commands_work(page: Path, tmp_path: Path) -> None:
    """In a copy of the source, with every file that the page shows put where its first line says."""
    for part in ("src", "conf"):
        shutil.copytree(REPOSITORY / part, tmp_path / part)
    for language, text in blocks(page):
        path = re.match(r"(?:# @package _global_\n)?# ((?:src|conf)/\S+)\n", text)
        if language in ("python", "yaml") and path:
            (tmp_path / path[1]).write_text(text)
    environment = {"DATA_DIR": str(tmp_path / "runs"), "WANDB_MODE": "offline", "COLUMNS": "120"}
    for command in shown_commands(page):
        program, *arguments = shlex.split(command, comments=True)
        module = PROGRAMS.get(program)
        assert module is not None, f"{page.name} shows a program that no test knows: {command}"
        if program == "metta-sweep":
            arguments = [str(min(int(word), FEW_TRIALS)) if word.isdigit() else word for word in arguments]
        arguments = [f"{LENGTH}{FEW_STEPS}" if word.startswith(LENGTH) else word for word in arguments]
        trains = module == "metta_train" or (program == "metta-sweep" and "=" not in arguments[0])
        if trains and not {"--help", "--cfg", "--version"} & set(arguments):
            arguments += [a for a in QUICK if not any(given.startswith("trainer=") for given in arguments)]
            arguments += SHORT_EPISODES.get(page.stem, [])
            arguments += [] if any(given.startswith("wandb=") for given in arguments) else ["wandb=off"]
        done = run_program(["-m", module, *arguments], tmp_path, tmp_path / "src", **environment)
        assert done.code == 0, f"{command}\n{done.err[-2000:]}"
