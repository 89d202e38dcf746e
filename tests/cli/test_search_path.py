"""Groups of the user's own: where they are looked for, which file wins, and what a run records of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metta_train import load_config
from metta_train.cli.compose import ConfigSource, compose
from metta_train.cli.config_source import conf_folder
from metta_train.cli.search_path import VARIABLE
from metta_train.specs.config_errors import ConfigError
from tests.cli.command import metta_train, run_python

EPOCHS = "defaults: [smoke, _self_]\nupdate_epochs: {}\n"


def trainer(folder: Path, name: str, epochs: int) -> Path:
    """A folder with the trainer `name`."""
    (folder / "trainer").mkdir(parents=True, exist_ok=True)
    (folder / "trainer" / f"{name}.yaml").write_text(EPOCHS.format(epochs))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_conf_folder_where_the_command_is_given_is_found(here: Path) -> None:
    trainer(here / "conf", "mine", 7)
    config = load_config(["trainer=mine"])
    assert config.trainer.update_epochs == 7
    assert config.origin.search_path == (str(here / "conf"),)
    assert config.origin.own_files == (f"trainer=mine: {here}/conf/trainer/mine.yaml",)
    assert "origin" not in config.plain()


def test_the_variable_names_folders_and_a_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = trainer(here / "with, a 'comma", "one", 3), trainer(here / "b", "two", 4)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv(VARIABLE, f"{first}::~/b:")
    assert load_config(["trainer=one"]).trainer.update_epochs == 3
    assert load_config(["trainer=two"]).origin.search_path == (str(first), str(second))


def test_the_earlier_folder_wins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, listed, variable = (trainer(here / name, "mine", n) for n, name in enumerate(("a", "b", "c"), start=1))
    trainer(here / "conf", "mine", 9)
    plain, with_option = ConfigSource(conf_folder()), ConfigSource(conf_folder(), extra_folder=options)
    searchpath = f"hydra.searchpath=['file://{listed}']"

    def epochs(source: ConfigSource, *overrides: str) -> int:
        return compose([*overrides, "trainer=mine"], source).tree.trainer.update_epochs

    assert epochs(plain) == 9
    monkeypatch.setenv(VARIABLE, str(variable))
    assert epochs(plain) == 3
    assert epochs(plain, searchpath) == 2
    assert epochs(with_option, searchpath) == 1


def test_a_shipped_name_means_the_same_everywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's ./conf changes what trainer=smoke is; who asks for it by a folder is told that it cannot be."""
    own = trainer(here / "conf", "smoke", 9)
    composition = compose(["trainer=smoke"], ConfigSource(conf_folder()))
    assert composition.tree.trainer.update_epochs == 2
    assert composition.warnings == (
        f"trainer=smoke is metta-train's own; {own}/trainer/smoke.yaml is not used, give it another name",
    )
    assert compose(["trainer=laptop"], ConfigSource(conf_folder())).warnings == ()
    monkeypatch.setenv(VARIABLE, str(own))
    with pytest.raises(ConfigError, match=r"smoke.yaml is not used, give it another name \(METTA_TRAIN_SEARCH_PATH\)$"):
        load_config(["trainer=smoke"])
    (own / "trainer" / "smoke.yaml").write_bytes((conf_folder() / "trainer" / "smoke.yaml").read_bytes())
    assert load_config(["trainer=smoke"]).trainer.update_epochs == 2  # a copy contradicts nobody


@pytest.mark.parametrize(
    ("override", "environment", "said"),
    [
        ("seed=1", "/nowhere/x", "METTA_TRAIN_SEARCH_PATH: /nowhere/x: no such folder"),
        ("hydra.searchpath=[/nowhere/x]", "", "hydra.searchpath=[/nowhere/x]: no such folder: /nowhere/x"),
        (
            "hydra.searchpath=3",
            "",
            "hydra.searchpath=3: needs a list of folders, like hydra.searchpath=[file:///home/me/conf]",
        ),
        ("trainer=mine2", "", "trainer=mine2: needs one of gpu, laptop, mine, smoke; did you mean mine?"),
    ],
)
def test_mistakes(override: str, environment: str, said: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(here / "conf", "mine", 7)
    monkeypatch.setenv(VARIABLE, environment)
    with pytest.raises(ConfigError) as told:
        load_config([override])
    assert str(told.value) == said


def test_the_shipped_folder_is_no_folder_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(conf_folder().parent)
    assert load_config().origin.search_path == ()


def test_a_run_and_each_job_of_a_sweep_record_where_their_groups_come_from(here: Path) -> None:
    own = trainer(here / "my conf", "mine", 1)
    (own / "trainer" / "mine.yaml").write_text(EPOCHS.format(1) + "total_timesteps: 768\n")
    (here / "conf").mkdir()
    done = metta_train(
        *("-m", "trainer=mine", "wandb=off", "run=r", "seed=1,2", "env.max_steps=20"),
        folder=here,
        **{VARIABLE: "my conf"},
    )
    assert done.code == 0, done.err
    files = sorted((here / "train_dir" / "r").rglob("invocations.jsonl"))
    assert len(files) == 2
    for file in files:
        invocation = json.loads(file.read_text())
        assert invocation["config_search_path"] == [str(own), str(here / "conf")]
        assert invocation["own_config_files"] == [f"trainer=mine: {own}/trainer/mine.yaml"]


def test_cfg_job_and_the_warning(here: Path) -> None:
    trainer(here / "conf", "mine", 7)
    trainer(here / "conf", "smoke", 7)
    shown = metta_train("--cfg", "job", "trainer=mine", folder=here)
    assert "update_epochs: 7" in shown.out and shown.err == ""
    done = run_python(
        [
            "-c",
            "import sys; from metta_train.cli import train\n"
            "train._train = lambda config, command: 0\n"
            "sys.exit(train.main(['trainer=smoke']))",
        ],
        here,
    )
    assert done.code == 0 and done.out == ""
    assert done.err.count("\n") == 1 and "smoke.yaml is not used" in done.err
