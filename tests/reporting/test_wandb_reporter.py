from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.errors import CommError

from metta_train.reporting import wandb_reporter
from metta_train.reporting.config import WandbConfig
from metta_train.reporting.metric_names import metrics_of
from metta_train.reporting.reporter import RunHeader, RunOutcome
from metta_train.reporting.wandb_reporter import WandbReporter
from tests.fakes.epoch_records import episode, epoch_record
from tests.reporting.wandb_file import read_records

CONFIG = WandbConfig.model_validate(
    {
        "mode": "offline",
        "project": "metta",
        "entity": None,
        "group": None,
        "name": None,
        "tags": ("t1", "t2"),
        "notes": "a note",
        "job_type": "train",
        "video_interval": 0,
    }
)
DONE = RunOutcome(state="done", epoch=2, agent_step=2000, elapsed=4.0)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def header(folder: Path, **changes: object) -> RunHeader:
    values = RunHeader(
        run="sweep/0",
        folder=folder,
        agent="fast",
        environment="forage",
        device="cpu",
        total_parameters=574_978,
        total_timesteps=10_000,
        config={"trainer": {"batch_size": 1000}, "service": {"api_key": "hunter22"}},
    )
    return replace(values, **changes)


def records(folder: Path) -> list[Any]:
    """Everything that one finished offline run wrote; wandb's own process writes the last part a moment later."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60.0
    while True:
        found = read_records(file)
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        assert time.monotonic() < deadline, f"{file} has no end after 60 s"
        time.sleep(0.02)


def history(folder: Path) -> list[dict[str, object]]:
    rows = [record.history for record in records(folder) if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def report(folder: Path, *, outcome: RunOutcome = DONE, **arguments: object) -> WandbReporter:
    folder.mkdir(exist_ok=True)
    reporter = WandbReporter(CONFIG, mode="offline", **arguments)  # pyright: ignore[reportArgumentType]
    reporter.start(header(folder))
    for epoch in (1, 2):
        reporter.record(epoch_record(epoch, episodes=[episode(0.25, stats={"agent/ore": 2.0})]))
    reporter.finish(outcome)
    return reporter


def test_a_run_can_be_read_back_with_every_metric(tmp_path: Path) -> None:
    reporter = report(tmp_path / "a", group="my-sweep")
    rows = history(tmp_path / "a")
    assert [row["_step"] for row in rows] == [1000, 2000]
    expected = metrics_of(epoch_record(2, episodes=[episode(0.25, stats={"agent/ore": 2.0})]))
    assert {name: rows[1][name] for name in expected} == pytest.approx(expected)

    everything = records(tmp_path / "a")
    (run,) = [record.run for record in everything if record.WhichOneof("record_type") == "run"]
    assert run.run_id == reporter.run_id
    assert (run.project, run.display_name, run.run_group, run.job_type) == ("metta", "sweep/0", "my-sweep", "train")
    assert list(run.tags) == ["t1", "t2"]
    metrics = [record.metric for record in everything if record.WhichOneof("record_type") == "metric"]
    assert [(metric.name or metric.glob_name, metric.step_metric) for metric in metrics] == [
        ("metric/*", ""),
        ("*", "metric/agent_step"),
        ("overview/reward_vs_total_time", "metric/total_time"),
    ]
    summaries = [record.summary for record in everything if record.WhichOneof("record_type") == "summary"]
    updates = {item.key or "/".join(item.nested_key): item.value_json for s in summaries for item in s.update}
    assert updates["model/total_parameters"] == "574978"
    (end,) = [record.exit for record in everything if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 0


def test_secrets_reach_neither_the_run_nor_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["metta-train", "service.api_key=hunter22"])
    report(tmp_path / "a")
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert any(b"batch_size" in path.read_bytes() for path in files)
    assert [path.name for path in files if b"hunter22" in path.read_bytes()] == []


def test_two_runs_of_one_process_are_two_runs(tmp_path: Path) -> None:
    first, second = report(tmp_path / "a"), report(tmp_path / "b")
    assert first.run_id != second.run_id
    assert len(history(tmp_path / "a")) == len(history(tmp_path / "b")) == 2
    assert wandb.run is None


def test_a_given_id_is_kept(tmp_path: Path) -> None:
    assert report(tmp_path / "a", run_id="kept1234").run_id == "kept1234"
    assert list((tmp_path / "a").glob("wandb/offline-run-*-kept1234"))


def test_a_failed_training_ends_its_run_too(tmp_path: Path) -> None:
    report(tmp_path / "a", outcome=RunOutcome("failed", 2, 2000, 4.0, message="boom"))
    (end,) = [record.exit for record in records(tmp_path / "a") if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 1


def test_finish_without_start_does_nothing() -> None:
    WandbReporter(CONFIG, mode="offline").finish(DONE)


def artifacts(folder: Path) -> list[Any]:
    found = [record.request.log_artifact.artifact for record in records(folder)]
    found += [record.artifact for record in records(folder)]
    return [artifact for artifact in found if artifact.name]


def save_and_report(folder: Path, upload_interval: int, epochs: int, state: str = "done") -> None:
    reporter = WandbReporter(CONFIG, mode="offline", upload_interval=upload_interval)
    folder.mkdir()
    reporter.start(header(folder))
    for epoch in range(1, epochs + 1):
        path = folder / f"step-{epoch}"
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"weights of epoch %d" % epoch)
        reporter.record(epoch_record(epoch))
        reporter.checkpoint_saved(path, epoch, epoch * 1000)
    reporter.finish(replace(DONE, state=state))


@pytest.mark.parametrize(
    ("interval", "state", "expected"),
    [(0, "done", []), (2, "done", [2, 4, 5]), (2, "failed", [2, 4]), (5, "done", [5]), (9, "done", [5])],
)
def test_checkpoints_are_uploaded_at_their_interval_and_at_the_end(
    tmp_path: Path, interval: int, state: str, expected: list[int]
) -> None:
    save_and_report(tmp_path / "a", interval, epochs=5, state=state)
    uploaded = artifacts(tmp_path / "a")
    assert [json.loads(artifact.metadata)["epoch"] for artifact in uploaded] == expected
    assert all(artifact.type == "model" for artifact in uploaded)


def test_online_without_a_key_goes_offline_and_never_asks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reporter = WandbReporter(CONFIG, mode="online")
    reporter.start(header(tmp_path))
    reporter.record(epoch_record())
    reporter.finish(DONE)
    assert len(history(tmp_path)) == 1
    assert "no wandb key is configured" in caplog.text


def test_a_server_that_accepts_and_says_nothing_means_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(wandb_reporter, "_PROBE_TIMEOUT", 0.2)
        reporter = WandbReporter(CONFIG, mode="online", run_id="kept1234")
        reporter.start(header(tmp_path))
        reporter.record(epoch_record())
        reporter.finish(DONE)
    assert len(history(tmp_path)) == 1
    assert reporter.run_id == "kept1234"
    assert "does not answer (timed out); wandb reports offline" in caplog.text


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x", "nonsense"])
def test_only_http_addresses_are_asked(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", address)
    assert "is not an http address" in (wandb_reporter._obstacle() or "")


def test_a_server_that_does_not_let_the_run_in_means_offline_under_a_new_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real_init = wandb.init

    def init(**arguments: object) -> object:
        if arguments["mode"] == "online":
            raise CommError("Run initialization has timed out")
        return real_init(**arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb_reporter, "_obstacle", lambda: None)
    reporter = WandbReporter(CONFIG, mode="online", run_id="kept1234")
    reporter.start(header(tmp_path))
    reporter.record(epoch_record())
    reporter.finish(DONE)
    assert len(history(tmp_path)) == 1
    assert reporter.run_id != "kept1234"
    assert "wandb does not start online (Run initialization has timed out); it reports offline" in caplog.text


def test_whatever_wandb_raises_becomes_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**arguments: object) -> object:
        raise RuntimeError("something inside wandb\nwith details")

    monkeypatch.setattr(wandb, "init", init)
    reporter = WandbReporter(CONFIG, mode="offline")
    reporter.start(header(tmp_path))
    for epoch in range(1, 1100):  # more than the queue holds
        reporter.record(epoch_record(epoch))
    reporter.finish(DONE)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["wandb stopped reporting (something inside wandb); metrics.jsonl stays complete"]


def test_a_stalled_wandb_holds_neither_the_training_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def init(**arguments: object) -> object:
        release.wait(60)
        raise CommError("released")

    monkeypatch.setattr(wandb, "init", init)
    reporter = WandbReporter(CONFIG, mode="offline", finish_timeout=0.3)
    started = time.monotonic()
    reporter.start(header(tmp_path))
    record = epoch_record()
    for _ in range(1100):
        reporter.record(record)
    reporter.finish(DONE)
    assert time.monotonic() - started < 30.0
    assert "wandb did not finish within 0 s" in caplog.text
    release.set()


def test_the_end_of_the_process_does_not_wait_for_a_stalled_server(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from metta_train.reporting import wandb_reporter\n"
        "from tests.reporting.test_wandb_reporter import CONFIG, DONE, epoch_record, header\n"
        "wandb_reporter._PROBE_TIMEOUT = 0.2\n"
        "reporter = wandb_reporter.WandbReporter(CONFIG, mode='online')\n"
        "reporter.start(header(Path(sys.argv[1])))\n"
        "reporter.record(epoch_record())\n"
        "reporter.finish(DONE)\n"
        "print(time.time())\n"
    )
    root = Path(__file__).parents[2]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        seconds_to_exit = time.time() - float(done.stdout)
    assert len(history(tmp_path)) == 1
    assert seconds_to_exit < 5.0
