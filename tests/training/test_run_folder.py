from __future__ import annotations

import fcntl
import json
import os
import pathlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.reporting.storage import StorageError
from metta_train.training import run_folder
from metta_train.training.run_folder import (
    ConfigChange,
    RunFolder,
    RunLockedError,
    RunPaths,
    RunStatus,
    check_config_changes,
    config_changes,
    free_run_name,
    read_config,
    read_status,
    validate_run_name,
)

SOURCE = str(Path(__file__).parents[2] / "src")


# ----- names


@pytest.mark.parametrize("name", ["a", "run1", "my.run-2_x", "2025", "sweep/0", "a/b/c", "x" * 128])
def test_good_names(name: str) -> None:
    assert validate_run_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/../b", "/abs", "a/", "/", "a//b", "a/b/c/d", ".hidden", "-flag", "_x", "a b", "a\n",
        "a\x00", "a:b", "a\\b", "~", "~root", "${x}", "a%2f", "ü", "x" * 129, "end.", "a/..", "a/./b", "con?", "a*",
    ],
)  # fmt: skip
def test_bad_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match=r"^run="):
        validate_run_name(name)


@given(name=st.text(max_size=12))
def test_an_accepted_name_stays_below_any_folder(name: str) -> None:
    try:
        validate_run_name(name)
    except ValueError:
        return
    assert os.path.normpath(name) == name
    assert not os.path.isabs(name)
    assert ".." not in name.split("/")


def test_names_are_checked_without_torch_and_without_the_disk(tmp_path: Path) -> None:
    code = (
        "import sys; from metta_train.training.run_folder import validate_run_name; validate_run_name('a/b');"
        "sys.exit('torch' in sys.modules or 'wandb' in sys.modules or 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": SOURCE}, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


# ----- places


def test_paths_of_a_run_folder(tmp_path: Path) -> None:
    paths = RunPaths.locate(tmp_path, "sweep/3")
    folder = tmp_path / "sweep" / "3"
    assert paths.folder == folder
    names = (paths.config, paths.invocations, paths.status, paths.lock, paths.metrics, paths.log)
    assert [path.relative_to(folder).as_posix() for path in names] == [
        "config.yaml",
        "invocations.jsonl",
        "status.json",
        "run.lock",
        "metrics.jsonl",
        "train.log",
    ]
    assert [path.name for path in (paths.checkpoints, paths.replays, paths.wandb)] == [
        "checkpoints",
        "replays",
        "wandb",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_link_out_of_data_dir_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    (data / "sly").symlink_to(outside)
    for run in ("sly", "sly/0"):
        with pytest.raises(ValueError, match="leads out of data_dir"):
            RunFolder.open(data, run)
    assert list(outside.iterdir()) == []


def test_data_dir_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with RunFolder.open(tmp_path / "link", "a") as folder:
        assert folder.paths.folder == tmp_path / "real" / "a"


def test_a_run_inside_a_run_is_refused(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a"), pytest.raises(ValueError, match="lies inside another run"):
        RunFolder.open(tmp_path, "a/checkpoints")
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_a_data_dir_that_cannot_be_made_is_one_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not make the run folder"):
        RunFolder.open(tmp_path / "file", "a")


def test_a_read_only_disk_is_one_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="read-only; use a data_dir that you may write to"):
        RunFolder.open(tmp_path, "a")


# ----- lock


def test_a_second_owner_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a"):
        with pytest.raises(RunLockedError, match=rf"pid {os.getpid()} on .+, started 20\d\d-"):
            RunFolder.open(tmp_path, "a")
        with RunFolder.open(tmp_path, "b"):
            pass
    with RunFolder.open(tmp_path, "a"):
        pass


def test_the_lock_is_freed_by_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from metta_train.training.run_folder import RunFolder\n"
        "folder = RunFolder.open(Path(sys.argv[1]), 'a'); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={"PYTHONPATH": SOURCE}, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunLockedError, match=f"pid {holder.pid} on"):
            RunFolder.open(tmp_path, "a")
        holder.kill()
        holder.wait()
    with RunFolder.open(tmp_path, "a"):
        pass


def test_a_glance_at_the_lock_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`metta-runs list` holds it for an instant."""
    RunFolder.open(tmp_path, "a").close()
    with (tmp_path / "a" / "run.lock").open() as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)
        waited: list[float] = []

        def end_the_glance(seconds: float) -> None:
            waited.append(seconds)
            fcntl.flock(glance, fcntl.LOCK_UN)

        monkeypatch.setattr(run_folder.time, "sleep", end_the_glance)
        with RunFolder.open(tmp_path, "a"):
            assert waited == [run_folder.SECOND_TRY]


def test_a_lock_file_with_nonsense_in_it_is_no_obstacle(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.paths.lock.write_text("nonsense")
        with pytest.raises(RunLockedError, match="holder unknown"):
            RunFolder.open(tmp_path, "a")
    with RunFolder.open(tmp_path, "a"):
        pass


def test_close_twice_is_harmless(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, "a")
    folder.close()
    folder.close()


# ----- files


def test_invocations_are_appended_without_secrets(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.record_invocation(["metta-train", "agent=fast", "x.api_key=hunter22"])
        folder.record_invocation(["metta-train"])
        lines = [json.loads(line) for line in folder.paths.invocations.read_text().splitlines()]
    assert [line["argv"] for line in lines] == [["metta-train", "agent=fast", "x.api_key=<redacted>"], ["metta-train"]]
    assert lines[0]["pid"] == os.getpid()
    assert "torch" in lines[0]["versions"]
    assert lines[0]["time"].endswith("+00:00")


def test_status_round_trip(tmp_path: Path) -> None:
    status = RunStatus("interrupted", epoch=3, agent_step=300, total_timesteps=1000, reward=0.5, message="Ctrl-C")
    with RunFolder.open(tmp_path, "a") as folder:
        assert read_status(folder.paths) is None
        folder.write_status(RunStatus("running", 0, 0, 1000))
        folder.write_status(status)
        back = read_status(folder.paths)
        assert [path.name for path in folder.paths.folder.iterdir() if path.name.startswith(".")] == []
    assert back is not None
    assert back.updated.startswith("20")
    assert RunStatus(**{**{s: getattr(back, s) for s in RunStatus.__slots__}, "updated": ""}) == status


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "happy"}', '{"state": "done"}'])
def test_an_unreadable_status_is_no_status(tmp_path: Path, content: str) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.paths.status.write_text(content)
        assert read_status(folder.paths) is None


def test_a_full_disk_leaves_the_old_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.write_status(RunStatus("running", 1, 10, 100))

        def refuse(*args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "replace", refuse)
            with pytest.raises(StorageError, match=r"could not write .*status\.json: the disk is full"):
                folder.write_status(RunStatus("running", 2, 20, 100))
        status = read_status(folder.paths)
        assert status is not None and status.epoch == 1
        assert not [path for path in folder.paths.folder.iterdir() if path.suffix == ".tmp"]


# ----- configuration

CONFIG = {
    "run": "a",
    "agent": {"name": "fast", "layers": (1, 2)},
    "env": {"num_agents": 24},
    "trainer": {"optimizer": {"learning_rate": 1e-05}, "precision": "fp32", "off": "off", "empty": {}},
    "notes": None,
}


def test_config_round_trip_keeps_types(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        assert read_config(folder.paths) is None
        assert folder.adopt_config(CONFIG, resuming=False) == ()
        back = read_config(folder.paths)
        assert back is not None
        assert config_changes(CONFIG, back) == ()
        assert back["trainer"] == CONFIG["trainer"]
        assert folder.adopt_config(CONFIG, resuming=True) == ()


def test_secrets_never_reach_the_saved_config(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config({"service": {"api_key": "hunter22", "url": "https://me:hunter22@host/x"}}, resuming=False)
        assert "hunter22" not in folder.paths.config.read_text()


def test_a_value_that_appears_twice_is_written_twice(tmp_path: Path) -> None:
    shared = [1, 2]
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config({"x": shared, "y": shared}, resuming=False)
        assert read_config(folder.paths) == {"x": [1, 2], "y": [1, 2]}


def changed(path: str, value: object) -> dict[str, object]:
    config = json.loads(json.dumps(CONFIG))
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


@pytest.mark.parametrize("key", ["agent.name", "env.num_agents"])
def test_another_agent_or_env_is_refused_when_the_run_goes_on(tmp_path: Path, key: str) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config(CONFIG, resuming=False)
        before = folder.paths.config.read_bytes()
        with pytest.raises(
            ValueError, match=rf"run='a' cannot go on with other values of these keys:\n  {key}: .* -> 9"
        ):
            folder.adopt_config(changed(key, 9), resuming=True)
        assert folder.paths.config.read_bytes() == before
        folder.adopt_config(changed(key, 9), resuming=False)


def test_other_changes_are_allowed_and_listed(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.adopt_config(CONFIG, resuming=False)
        changes = folder.adopt_config(changed("trainer.optimizer.learning_rate", 0.001), resuming=True)
        assert [str(change) for change in changes] == ["trainer.optimizer.learning_rate: 1e-05 -> 0.001"]
        assert folder.adopt_config(changed("trainer.optimizer.learning_rate", 0.001), resuming=True) == ()


def test_config_changes_by_hand() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": {}, "same": 1, "flag": True}
    new = {"a": 2, "b": {"c": [1, 3], "d": "x"}, "come": None, "same": 1.0, "flag": 1}
    assert config_changes(old, new) == (
        ConfigChange("a", "1", "2"),
        ConfigChange("b.c", "[1, 2]", "[1, 3]"),
        ConfigChange("come", "(absent)", "null"),
        ConfigChange("flag", "true", "1"),
        ConfigChange("gone", "{}", "(absent)"),
    )


def test_py_agent_is_refused_and_a_key_that_only_begins_like_one_is_not() -> None:
    with pytest.raises(ValueError, match="py_agent"):
        check_config_changes("a", [ConfigChange("py_agent", "null", '"fast"')])
    check_config_changes("a", [ConfigChange("environment_notes", "1", "2"), ConfigChange("seeds", "1", "2")])


@pytest.mark.parametrize("key", ["seed", "trainer.optimizer.type"])
def test_single_values_that_a_run_keeps(key: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){key}: 1 -> 2.*restart=new"):
        check_config_changes("a", [ConfigChange(key, "1", "2")])


def test_what_may_change() -> None:
    keys = ("env.step_timeout", "env.restart_budget", "agent.clip_range", "py_agent.analyze_weights_interval")
    rest = ("trainer.optimizer.learning_rate", "trainer.total_timesteps", "trainer.checkpoint.checkpoint_interval")
    check_config_changes("a", [ConfigChange(key, "1", "2") for key in (*keys, *rest)])


def test_a_free_name_is_the_first_that_nobody_has(tmp_path: Path) -> None:
    assert free_run_name(tmp_path, "a") == "a"
    (tmp_path / "a").mkdir()
    assert free_run_name(tmp_path, "a") == "a"  # empty: Hydra makes the folders of a sweep's jobs
    for name in ("a", "a-2", "a-4"):
        RunFolder.open(tmp_path, name).close()
    assert free_run_name(tmp_path, "a") == "a-3"
    with pytest.raises(ValueError, match="not a valid run name"):
        free_run_name(tmp_path, "../a")


def test_files_that_a_dead_process_was_replacing_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (".status.json.123.tmp", ".config.yaml.7.tmp", "notes.tmp", "status.json"):
        (tmp_path / "a" / name).write_text("{")
    with RunFolder.open(tmp_path, "a"):
        assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["notes.tmp", "run.lock", "status.json"]


def test_clear_leaves_the_lock_alone(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        (folder.paths.checkpoints / "step-1").mkdir(parents=True)
        (folder.paths.folder / ".trash-left").mkdir()
        folder.paths.metrics.write_text("{}")
        folder.clear()
        assert [path.name for path in folder.paths.folder.iterdir()] == ["run.lock"]
        with pytest.raises(RunLockedError):
            RunFolder.open(tmp_path, "a")


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "a: [", "!!python/object/apply:os.system ['touch owned']", "a: &x [1]\nb: *x", "a: !env X", "- a\nb: c"],
)
def test_a_tampered_config_is_refused_and_nothing_in_it_runs(tmp_path: Path, text: str) -> None:
    with RunFolder.open(tmp_path, "a") as folder:
        folder.paths.config.write_text(text)
        with pytest.raises(ValueError, match=r"config\.yaml"):
            folder.adopt_config(CONFIG, resuming=True)
    assert not Path("owned").exists()


@given(text=st.text(max_size=40))
def test_any_config_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    paths = RunPaths.locate(tmp_path_factory.mktemp("fuzz"), "a")
    paths.folder.mkdir(exist_ok=True)
    paths.config.write_text(text, encoding="utf-8", errors="replace")
    try:
        config = read_config(paths)
    except ValueError:
        return
    assert isinstance(config, dict)


def test_a_whole_agent_may_take_the_place_of_a_whole_py_agent() -> None:
    """Whether it is the same network is found out by training/parity/same_network.py."""
    to_py = [
        ConfigChange("agent.clip_range", "0", "(absent)"),
        ConfigChange("agent.components.box.class", '"ObsTokenToBox"', "(absent)"),
        ConfigChange("py_agent.agent_type", "(absent)", '"fast"'),
    ]
    check_config_changes("a", to_py)
    check_config_changes("a", [ConfigChange(change.key, change.new, change.old) for change in to_py])
    with pytest.raises(ValueError, match=r"env\.max_steps"):
        check_config_changes("a", [*to_py, ConfigChange("env.max_steps", "1", "2")])
    with pytest.raises(ValueError, match=r"agent\.components"):
        check_config_changes("a", [*to_py[1:], ConfigChange("agent.clip_range", "0", "1")])
    with pytest.raises(ValueError, match=r"py_agent\.core"):
        check_config_changes("a", [ConfigChange("py_agent.core.bias_init", '"forget"', '"ones"')])


def test_of_many_refused_changes_some_are_listed() -> None:
    changes = [ConfigChange(f"env.task.key{number:02}", "1", "2") for number in range(15)]
    with pytest.raises(ValueError, match=r"env.task.key11: 1 -> 2\n  and 3 more\nGive the old values"):
        check_config_changes("a", changes)
