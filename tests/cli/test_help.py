"""What `metta-train --help` teaches: groups, options, examples that work, and every key."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from metta_train import load_config
from metta_train.cli import train
from metta_train.cli.compose import ConfigSource
from metta_train.cli.config_source import conf_folder
from metta_train.cli.exit_codes import BAD_USAGE, DONE
from metta_train.cli.help import EXAMPLES, GROUPS, first_words, group_options
from tests.cli.command import run_python


def page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert train.main(["--help", *words]) == DONE
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.mark.parametrize("columns", [80, 200])
def test_the_page_names_every_group_and_option_and_fits(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = page(capsys)
    assert max(map(len, text.splitlines())) <= min(columns, 110)
    assert "\x1b" not in text
    for folder in sorted(p for p in conf_folder().iterdir() if p.is_dir() and p.name not in ("hydra", "__pycache__")):
        assert re.search(rf"^  {folder.name} +\S", text, re.MULTILINE), folder.name
        for file in folder.glob("*.yaml"):
            assert re.search(rf"[ \[]{file.stem}\b", text), file
    for default in ("[fast]", "[none]", "[laptop]", "[forage]", "[auto]"):
        assert default in text
    for option in ("--dry-run", "--cfg job", "-m, --multirun", "--config-dir", "-sc install=bash", "--help"):
        assert option in text


@pytest.mark.parametrize("command", [command for command, _ in EXAMPLES])
def test_the_examples_compose(command: str) -> None:
    program, *words = shlex.split(command)
    assert program == "metta-train"
    overrides = [word for word in words if not word.startswith("-")]
    sweep = "-m" in words
    load_config([re.sub(r",.*", "", word) if sweep else word for word in overrides])


def test_every_shipped_option_says_what_it_is() -> None:
    options = group_options(ConfigSource(conf_folder()))
    assert set(GROUPS) >= set(options)
    for group, files in options.items():
        for name, file in files.items():
            if group != "py_agent":
                assert first_words(file), f"{group}={name}"


def test_a_group_an_option_and_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "trainer")
    assert re.search(r"trainer=smoke +Three epochs in seconds", text)
    assert "trainer.ppo.gamma=0.977\n      Discount of the reward of the next step. Needs a number" in text
    assert "trainer.bptt_horizon=16\n" in text
    assert "trainer.bptt_horizon=64\n" in page(capsys, "trainer=gpu")
    assert "trainer.ppo.clip_coef=0.3\n" in page(capsys, "trainer.ppo", "trainer.ppo.clip_coef=0.3")
    assert "sweep=" in page(capsys, "sweep") and "eval=forage" in page(capsys, "eval=forage")
    text = page(capsys, "env=gymnasium")
    assert "env.id=CartPole-v1\n" in text and "env.task" not in text
    text = page(capsys, "env.task", "env=arena")
    assert "env.task.border=6\n" in text and "ore_limit" not in text
    assert "env.task.features.<name>.categories\n" in text


def test_groups_of_the_users_own_stand_in_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "conf" / "trainer" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# Twice as long. And more.\ndefaults: [laptop, _self_]\n")
    monkeypatch.chdir(tmp_path)
    assert "gpu  [laptop]  mine  smoke" in page(capsys)
    text = " ".join(page(capsys, "trainer").split())
    assert f"trainer=mine Twice as long ({own})" in text


def test_a_wrong_word_earns_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help", "trainer.optimzer"]) == BAD_USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "--help trainer.optimzer: unknown key; did you mean trainer.optimizer?\n"


def test_it_is_quick_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from metta_train.cli import train; code = train.main(['--help'])\n"
        "heavy = {'torch', 'mettagrid', 'wandb', 'gymnasium', 'pufferlib', 'rich'} & set(sys.modules)\n"
        "sys.exit(code or str(heavy) if heavy else 0)"
    )
    done = run_python(["-c", code], tmp_path)
    assert done.code == 0, done.err
    assert run_python(["-m", "metta_train", "--help"], tmp_path).processor_seconds < 3  # 0.3 to 0.7
    assert list(tmp_path.iterdir()) == []
