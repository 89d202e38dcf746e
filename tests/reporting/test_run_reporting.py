from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from metta_train.reporting.config import WandbConfig
from metta_train.reporting.console import stderr_console
from metta_train.reporting.reporter import RunHeader, RunOutcome
from metta_train.reporting.run_reporting import build_reporting
from tests.fakes.epoch_records import epoch_record


def wandb_config(mode: str) -> WandbConfig:
    values = {"mode": mode, "project": "metta", "entity": None, "group": None, "name": None}
    return WandbConfig.model_validate(values | {"tags": (), "notes": "", "job_type": "train", "video_interval": 0})


def test_a_run_without_wandb_is_reported_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    header = RunHeader(
        run="a",
        folder=tmp_path,
        agent="fast",
        environment="forage",
        device="cpu",
        total_parameters=1,
        total_timesteps=9,
    )
    metrics = tmp_path / "metrics.jsonl"
    reporting = build_reporting(stderr_console(), metrics, wandb_config("off"), environ={})
    assert reporting.wandb_run_id is None
    reporting.reporters.start(header)
    reporting.reporters.record(epoch_record())
    reporting.reporters.finish(RunOutcome("done", 1, 1000, 2.0))
    assert json.loads(metrics.read_text())["metric/agent_step"] == 1000.0
    assert "epoch 1 | step 1,000" in err.getvalue()
    assert out.getvalue().startswith("done: a at 1,000 agent steps")
    assert not (tmp_path / "wandb").exists()


def test_the_wandb_run_id_is_made_or_kept(tmp_path: Path) -> None:
    config = wandb_config("offline")
    ids = []
    for given in (None, None, "kept1234"):
        reporting = build_reporting(stderr_console(), tmp_path / "m", config, wandb_run_id=given, environ={})
        ids.append(reporting.wandb_run_id)
    assert ids[2] == "kept1234"
    assert None not in ids
    assert len(set(ids)) == 3
