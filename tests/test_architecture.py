"""The house of DESIGN 2, as import-linter sees it, and what importing may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import metta_train
from tests.cli.command import REPOSITORY, run_python

SOURCE = Path(metta_train.__file__).parent
CONFIG_MODULES = ["metta_train.run_config", *(
    f"metta_train.{file.parent.name}.config" for file in sorted(SOURCE.glob("*/config.py"))
)]  # fmt: skip


def test_import_contracts() -> None:
    program = str(Path(sys.executable).with_name("lint-imports"))
    done = subprocess.run(
        [program, "--no-cache", "--config", str(REPOSITORY / "pyproject.toml")],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_the_package_and_every_config_imports_nothing_heavy(tmp_path: Path) -> None:
    modules = ["metta_train", "metta_train.cli.train", *CONFIG_MODULES]
    assert len(modules) > 5
    script = (
        f"import sys; {'; '.join(f'import {module}' for module in modules)}; "
        "print(sorted({'torch', 'mettagrid', 'pufferlib', 'gymnasium', 'wandb', 'rich'} & set(sys.modules)))"
    )
    done = run_python(["-c", script], tmp_path)
    assert (done.code, done.out) == (0, "[]\n"), done


def test_the_public_names_come_when_they_are_asked_for(tmp_path: Path) -> None:
    script = (
        "import sys, metta_train; from metta_train import *; "
        "spec = EnvironmentSpec('mine', 2, TokenObservation(5, 11, 11, (Feature(0, 'tag', 1.0),)),"
        " ActionTable.from_pairs(['attack', 'move'], [8, 1])); assert len(spec.actions) == 11; "
        "assert load_config(['trainer=smoke', 'run=x']).run == 'x'; "
        "assert callable(build_policy) and callable(train) and 'torch' in sys.modules"
    )
    done = run_python(["-c", script], tmp_path)
    assert done.code == 0, done.err
    with pytest.raises(AttributeError, match="nothing_like_it"):
        metta_train.nothing_like_it  # noqa: B018
    assert set(metta_train.__all__) <= set(dir(metta_train))


@pytest.mark.parametrize(
    "room", sorted(path.parent.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("__init__.py"))
)
def test_packages_hold_no_code(room: str) -> None:
    body = ast.parse((SOURCE / room / "__init__.py").read_text()).body
    assert room == "." or all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def test_nothing_reads_pickles_or_runs_text() -> None:
    """No pickle is ever read (DESIGN 6), no text becomes code, no shell is asked.

    But for the reader of old files: a process of its own, which only --trust-pickle starts, and nobody imports.
    """
    reader = SOURCE / "cli" / "legacy_pickle.py"
    assert reader.exists()
    for file in set(SOURCE.rglob("*.py")) - {reader}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "cloudpickle", "dill", "marshal", "shelve"} & set(names), file
                assert not any("legacy_pickle" in name for name in names), file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system"), file
                assert "shell" not in {keyword.arg for keyword in node.keywords}, file
