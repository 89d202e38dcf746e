"""What the tab key offers, asked as the shells ask; in a real bash, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metta_train.cli.completion import OPTIONS, candidates
from metta_train.cli.compose import ConfigSource
from metta_train.cli.config_source import conf_folder
from metta_train.cli.exit_codes import DONE
from metta_train.cli.train import _parse
from tests.cli.command import REPOSITORY, Finished, run_python

SOURCE = ConfigSource(conf_folder())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("metta-train agent=", "agent=fast agent=mlp"),
        ("metta-train wandb=off py_agent=", "py_agent=fast py_agent=none"),
        ("metta-train -m agent=fast,m", "agent=fast,mlp"),
        ("metta-train trainer.optimizer.le", "trainer.optimizer.learning_rate="),
        ("metta-train trainer.optimizer.learning_rate=", "trainer.optimizer.learning_rate=0.004"),
        ("metta-train trainer=gpu trainer.bptt_horizon=", "trainer.bptt_horizon=64"),
        ("metta-train trainer.opt", "trainer.optimizer."),
        ("metta-train trainer.optimizer.type=", "trainer.optimizer.type=adam trainer.optimizer.type=muon"),
        ("metta-train restart=", "restart=new restart=overwrite restart=resume"),
        ("metta-train torch_deterministic=", "torch_deterministic=false torch_deterministic=true"),
        ("metta-train agent.components.cnn1.nn_params.k", "agent.components.cnn1.nn_params.kernel_size="),
        ("metta-train env=gymnasium env.i", "env.id="),
        ("metta-train env=gymnasium typo=3 env=nope env.r", "env.restart_budget="),
        ("metta-train trainer.simulation.suite=f", "trainer.simulation.suite=forage"),
        ("metta-train device=", "device=auto device=cpu device=cuda"),
        ("metta-train --dr", "--dry-run"),
        ("metta-train --cfg ", "job"),
        ("metta-train --help trainer.pp", "trainer.ppo."),
        ("metta-train --help ag", "agent agent."),
        ("metta-train -sc install=", "install=bash install=fish install=zsh"),
        ("metta-train nothing.like.this", ""),
    ],
)
def test_words(line: str, expected: str, here: Path) -> None:
    assert candidates(line, SOURCE) == expected.split()


def test_an_empty_word_gets_groups_and_keys() -> None:
    found = candidates("metta-train ", SOURCE)
    assert {"agent=", "env=", "env.", "trainer=", "trainer.", "run=", "seed="} <= set(found)
    assert not {"agent_name=", "origin.", "suite.", "hydra."} & set(found)


def test_files_folders_and_runs(here: Path) -> None:
    for name in ("games/maze.yaml", "games/deep/x.yaml", "train_dir/a/status.json", "train_dir/s/0/status.json"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    assert candidates("metta-train env.config=ga", SOURCE) == ["env.config=games/"]
    assert candidates("metta-train env.config=games/", SOURCE) == [
        "env.config=games/deep/",
        "env.config=games/maze.yaml",
    ]
    assert candidates(f"metta-train env.config={here}/games/m", SOURCE) == [f"env.config={here}/games/maze.yaml"]
    assert candidates("metta-train --config-dir g", SOURCE) == ["games/"]
    assert candidates("metta-train run=", SOURCE) == ["run=a", "run=s/0"]
    assert candidates("metta-train data_dir=elsewhere run=", SOURCE) == []


def test_groups_of_the_users_own(here: Path) -> None:
    for folder, name in (("conf", "mine"), ("other", "theirs")):
        (here / folder / "trainer").mkdir(parents=True)
        (here / folder / "trainer" / f"{name}.yaml").write_text("defaults: [smoke, _self_]\nbptt_horizon: 8\n")
    assert "trainer=mine" in candidates("metta-train trainer=", SOURCE)
    assert candidates("metta-train --config-dir other trainer=t", SOURCE) == ["trainer=theirs"]
    assert candidates("metta-train trainer=mine trainer.bptt_horizon=", SOURCE) == ["trainer.bptt_horizon=8"]


def test_the_options_are_those_that_exist() -> None:
    for option, behind in OPTIONS.items():
        if option != "--version":
            _parse([option] if behind is None else [option, *(behind[:1] or ["x"])])


def query(folder: Path, shell: str, line: str) -> Finished:
    arguments = ["-m", "metta_train", "-sc", f"query={shell}"]
    done = run_python(arguments, folder, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.code == DONE and done.err == ""
    return done


def test_shells_get_words_as_they_want_them_and_quickly(tmp_path: Path) -> None:
    for shell, text in (
        ("bash", "agent=fast agent=mlp\n"),
        ("zsh", "agent=fast agent=mlp\n"),
        ("fish", "agent=fast\nagent=mlp\n"),
    ):
        assert query(tmp_path, shell, "metta-train agent=").out == text
    assert query(tmp_path, "bash", "metta-train trainer.").processor_seconds < 3  # 0.5 to 0.9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_every_shell_can_be_told_how_to_ask(shell: str, tmp_path: Path) -> None:
    done = run_python(["-m", "metta_train", "-sc", f"install={shell}"], tmp_path)
    assert done.code == DONE and "query=" in done.out and "complet" in done.out


def test_in_a_real_bash(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "metta-train"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY / 'src')!r})\n"
        "from metta_train.cli.train import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    script = (
        'eval "$(metta-train -sc install=bash)"\n'
        "complete -p metta-train\n"
        "COMP_LINE='metta-train wandb=off trainer=s'; COMP_POINT=${#COMP_LINE}; COMP_CWORD=2\n"
        'hydra_bash_completion; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{program.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == ""
    first, *found = done.stdout.splitlines()
    assert first.endswith("-F hydra_bash_completion metta-train")
    assert found == ["trainer=smoke"]
