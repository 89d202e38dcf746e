from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from metta_train.reporting.config import WandbConfig, has_wandb_key, resolved_mode

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "conf" / "wandb").glob("*.yaml"))


def test_there_is_one_file_per_mode() -> None:
    assert {file.stem for file in FILES} == {"auto", "online", "offline", "off"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_validates_and_says_its_own_mode_as_text(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    assert values["mode"] == file.stem
    assert WandbConfig.model_validate(values).mode == file.stem
    assert set(values) == set(WandbConfig.model_fields)


def base() -> dict[str, object]:
    return yaml.safe_load((REPOSITORY / "conf" / "wandb" / "auto.yaml").read_text())


def test_an_unquoted_off_is_understood() -> None:
    assert WandbConfig.model_validate(base() | yaml.safe_load("mode: off")).mode == "off"


@pytest.mark.parametrize(
    "change", [{"mode": "on"}, {"mode": True}, {"project": ""}, {"project": "a/b"}, {"api_key": "x"}]
)
def test_wrong_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WandbConfig.model_validate(base() | change)


def test_auto_is_online_only_with_a_key(tmp_path: Path) -> None:
    assert resolved_mode("auto", {}, tmp_path) == "offline"
    assert resolved_mode("auto", {"WANDB_API_KEY": "k"}, tmp_path) == "online"
    assert resolved_mode("auto", {"WANDB_API_KEY": ""}, tmp_path) == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert resolved_mode("auto", {}, tmp_path) == "online"
    assert resolved_mode("auto", {"WANDB_MODE": "offline"}, tmp_path) == "offline"
    assert resolved_mode("auto", {"WANDB_MODE": "disabled"}, tmp_path) == "off"
    for mode in ("online", "offline", "off"):
        assert resolved_mode(mode, {"WANDB_API_KEY": "k"}, tmp_path) == mode


def test_the_key_must_belong_to_the_server_that_is_used(tmp_path: Path) -> None:
    netrc = tmp_path / "elsewhere"
    netrc.write_text("machine wandb.example.com login user password key\n")
    netrc.chmod(0o600)
    assert not has_wandb_key({"NETRC": str(netrc)}, tmp_path)
    assert has_wandb_key({"NETRC": str(netrc), "WANDB_BASE_URL": "https://wandb.example.com:8080"}, tmp_path)


def test_a_broken_netrc_is_no_key(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine")
    assert not has_wandb_key({}, tmp_path)


@pytest.mark.parametrize(
    "module",
    [
        "config",
        "metric_names",
        "jsonl",
        "reporter",
        "redaction",
        "run_view",
        "wandb_reporter",
        "console",
        "run_reporting",
    ],
)
def test_importing_is_light(module: str) -> None:
    code = (
        f"import sys, metta_train.reporting.{module};"
        "print([heavy for heavy in ('torch', 'wandb', 'rich', 'mettagrid', 'pufferlib') if heavy in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
