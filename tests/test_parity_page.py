"""docs/parity.md and docs/port-a-policy.md: the worked example really goes as the pages say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.command import REPOSITORY, run_program, run_python

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = ("port-a-policy.md", "parity.md")
FILES = ("mine/ported.py", "names.yaml", "spec.yaml")


def telling_lines(text: str) -> list[str]:
    """What must be the same on every machine: verdicts, first differences and causes, but not the numbers."""
    verdicts = re.findall(r"^(\w+ +(?:equal|DIFFERENT)) ", text, re.MULTILINE)
    causes = [line.strip() for line in text.splitlines() if "likely cause: " in line]
    return [*[" ".join(verdict.split()) for verdict in verdicts], *causes]


def repaired(source: str, diff: str) -> str:
    lines = diff.splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] in "- ")
    new = "".join(f"{line[1:]}\n" for line in lines if line[0] in "+ ")
    assert source.count(old) == 1, f"the page repairs what its source does not have:\n{old}"
    return source.replace(old, new)


def test_the_pages_show_what_happens(tmp_path: Path) -> None:
    shown = 0
    (tmp_path / "mine").mkdir()
    pages = "\n".join((REPOSITORY / "docs" / name).read_text() for name in PAGES)
    for language, text in FENCE.findall(pages):
        if text.startswith("# ") and text.splitlines()[0][2:] in FILES:
            (tmp_path / text.splitlines()[0][2:]).write_text(text)
        elif language == "diff":
            source = tmp_path / "mine" / "ported.py"
            source.write_text(repaired(source.read_text(), text))
        elif language == "console":
            command, *output = text.splitlines()
            program, *arguments = shlex.split(command.removeprefix("$ "))
            assert program == "metta-parity"
            done = run_program(["-m", "metta_train.cli.parity", *arguments], tmp_path)
            assert str(done.code) == output[-1], f"{command}\n{done.out}{done.err}"
            assert telling_lines(done.out) == telling_lines("\n".join(output)), command
            assert telling_lines(done.out), command
            shown += 1
    assert shown == 7
    assert (tmp_path / "spec.yaml").exists()
    done = run_python(
        ["-m", "metta_train.cli.parity", "agent=fast", "py_agent=fast", "--spec=spec.yaml", "--sections=forward"],
        tmp_path,
    )
    assert done.code == 0, done.err
