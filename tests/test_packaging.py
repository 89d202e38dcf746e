"""What is built and installed is what runs: wheel, wheel from the sdist, Makefile."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.cli.command import REPOSITORY, run_python

CONF_FILES = sorted(f.relative_to(REPOSITORY).as_posix() for f in (REPOSITORY / "conf").rglob("*.yaml"))


def python(*arguments: str, folder: Path) -> str:
    done = run_python(arguments, folder)
    assert done.code == 0, done.out + done.err
    return done.out


def built(source: Path, target: Path, kind: str) -> Path:
    """Build one distribution without network: the build backend is a development dependency."""
    python("-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(target), str(source), folder=target)
    (archive,) = target.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(REPOSITORY, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(REPOSITORY, tmp_path_factory.mktemp("wheel"), "wheel")


def test_the_wheel_from_the_sdist_is_the_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    (tmp_path / "again").mkdir()
    again = built(source, tmp_path / "again", "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert one.namelist() == other.namelist()
        assert [name for name in one.namelist() if one.read(name) != other.read(name)] == []


def test_an_installed_wheel_finds_conf_and_trains_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    quiet = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    python("-m", "pip", "install", *quiet, "--target", str(site), str(wheel), folder=empty)
    where = run_python(
        ["-c", "from metta_train.cli.config_source import conf_folder; print(conf_folder())"], empty, site
    )
    assert where.out.strip() == str(site / "metta_train" / "conf"), where.err
    arguments = ["-m", "metta_train", "trainer=smoke", "trainer.total_timesteps=768", "wandb=off", "run=a"]
    done = run_python(arguments, empty, site)
    assert done.code == 0, done.err
    assert [path.name for path in empty.iterdir()] == ["train_dir"]
    assert (empty / "train_dir" / "a" / "checkpoints" / "step-000000000768" / "model.safetensors").is_file()


def test_the_wheel_holds_the_package_and_conf_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(n for n in names if n.endswith(".yaml")) == [f"metta_train/{name}" for name in CONF_FILES]
    assert {name.split("/")[0] for name in names} == {"metta_train", "metta_train-0.1.0.dist-info"}
    scripts = zipfile.ZipFile(wheel).read("metta_train-0.1.0.dist-info/entry_points.txt").decode()
    assert "metta-train = metta_train.cli.train:main" in scripts


def test_the_sdist_holds_what_a_build_and_the_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*CONF_FILES, "pyproject.toml", "LICENSE", "README.md", "constraints.txt", "Makefile"} <= names
    assert "tests/test_packaging.py" in names
    assert not [name for name in names if "train_dir" in name or "__pycache__" in name]


def test_every_console_script_exists() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        done = run_python(["-c", f"from {module} import {function}; assert callable({function})"], REPOSITORY)
        assert done.code == 0, done.err


def test_constraints_pin_every_requirement_to_one_version_and_no_place() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][A-Za-z0-9.+!]*", line) for line in lines)
    pinned = {line.partition("==")[0] for line in lines}
    assert len(pinned) == len(lines) and lines == sorted(lines, key=lambda line: line.partition("==")[0])
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    names = {re.split(r"[\[<>=~! ]", requirement, maxsplit=1)[0].lower() for requirement in wanted}
    assert names <= pinned


# ----- the Makefile


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-C", str(REPOSITORY), "--no-print-directory", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_make_help_lists_the_targets() -> None:
    done = make()
    assert done.returncode == 0, done.stderr
    for target in ("train", "test", "check", "help"):
        assert f"  make {target} " in done.stdout


def test_make_says_when_python_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.1; else exit 1; fi\n')
    old.chmod(0o755)
    done = make("train", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2
    assert f'metta-train needs Python 3.11 or 3.12; "{old}" is Python 3.9.1.' in done.stderr
    assert "make PYTHON=python3.12 train" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("", "metta-train agent=fast"),
        ("seed=3", "metta-train agent=fast seed=3"),
        ("py_agent=fast", "metta-train py_agent=fast"),
        ("agent=mlp", "metta-train agent=mlp"),
    ],
)
def test_make_train_passes_overrides(arguments: str, command: str, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for file in (venv / "bin" / "python", venv / ".installed"):
        file.touch()
    done = make("--dry-run", "train", f"ARGS={arguments}", f"VENV={venv}")
    assert " ".join(done.stdout.split()) == f"{venv}/bin/{command}"


def test_python_of_the_tests_is_supported() -> None:
    requires = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == ">=3.11,<3.13"
    assert (3, 11) <= sys.version_info[:2] <= (3, 12)
