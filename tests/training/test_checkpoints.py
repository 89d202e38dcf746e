from __future__ import annotations

import hashlib
import json
import os
import pathlib
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metta_train.reporting.storage import StorageError
from metta_train.specs.records import Progress
from metta_train.training.checkpoint_files import (
    CheckpointState,
    DamagedCheckpointError,
    IncompatibleCheckpointError,
    NonFiniteCheckpointError,
)
from metta_train.training.checkpoints import (
    Checkpoint,
    NoUsableCheckpointError,
    checkpoint_folders,
    load,
    newest_good,
    remove_unfinished,
    save,
)

FILES = ("model.safetensors", "optimizer.safetensors", "state.safetensors", "state.json", "manifest.json")


def a_state(agent_step: int = 8192, **changes: object) -> CheckpointState:
    state = CheckpointState(
        progress=Progress(epoch=3, agent_step=agent_step, optimizer_steps=24, train_time=1.5, total_time=2.25),
        action_names=("noop", "move", "turn"),
        agent="fast",
        environment="forage",
        wandb_run_id="1a2b3c4d",
        metadata={"seed": 7, "scores": {"forage": 0.5}, "note": None, "list": [1, 2.5, True]},
        random_states={"sampling": torch.arange(16, dtype=torch.uint8)},
        tensors={
            "anchor/cnn1.weight": torch.tensor([[1.0, -2.0]]),
            "env/actions": torch.tensor([3], dtype=torch.int32),
        },
    )
    return replace(state, **changes)


def a_model(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"fc1.weight": torch.randn(4, 3, generator=generator), "fc1.bias": torch.zeros(4)}


def an_optimizer(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed + 100)
    return {"exp_avg/fc1.weight": torch.randn(4, 3, generator=generator), "step/fc1.weight": torch.tensor(24.0)}


def saved(folder: Path, agent_step: int = 8192) -> Path:
    return save(folder, a_model(agent_step), an_optimizer(agent_step), a_state(agent_step))


def assert_same_tensors(left: dict[str, Tensor] | object, right: object) -> None:
    assert isinstance(left, dict) and isinstance(right, dict)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name


# ----- round trip


def test_round_trip_gives_back_everything(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", a_model(), an_optimizer(), a_state())
    assert path == tmp_path / "checkpoints" / "step-000000008192"
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)

    checkpoint = load(path)
    assert_same_tensors(checkpoint.model, a_model())
    assert_same_tensors(checkpoint.optimizer, an_optimizer())
    assert_same_tensors(checkpoint.state.random_states, a_state().random_states)
    assert_same_tensors(checkpoint.state.tensors, a_state().tensors)
    assert replace(checkpoint.state, random_states={}, tensors={}) == a_state(random_states={}, tensors={})


def test_a_restored_generator_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    path = save(tmp_path, {}, {}, a_state(random_states={"sampling": generator.get_state()}))
    expected = torch.rand(4, generator=generator)
    restored = torch.Generator()
    restored.set_state(load(path).state.random_states["sampling"])
    assert torch.equal(torch.rand(4, generator=restored), expected)


def test_tensors_that_share_memory_or_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    path = save(
        tmp_path, {"a": weight, "tied": weight, "transposed": weight.T, "half": weight.bfloat16()}, {}, a_state()
    )
    model = load(path).model
    assert torch.equal(model["tied"], weight)
    assert torch.equal(model["transposed"], weight.T)
    assert model["half"].dtype == torch.bfloat16


def test_equal_weights_give_equal_bytes_whatever_the_order(tmp_path: Path) -> None:
    model = a_model()
    first = save(tmp_path / "a", model, an_optimizer(), a_state())
    second = save(tmp_path / "b", dict(reversed(model.items())), an_optimizer(), a_state())
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = saved(tmp_path)
    finally:
        os.umask(before)
    assert {oct((path / name).stat().st_mode & 0o777) for name in FILES} == {"0o644"}
    assert oct(path.stat().st_mode & 0o777) == "0o755"


def test_the_manifest_has_sizes_hashes_and_versions(tmp_path: Path) -> None:
    path = saved(tmp_path)
    manifest = json.loads((path / "manifest.json").read_bytes())
    assert manifest["format_version"] == 1
    assert manifest["versions"]["torch"] == torch.__version__
    assert "metta-train" in manifest["versions"]
    content = (path / "model.safetensors").read_bytes()
    assert manifest["files"]["model.safetensors"] == {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert set(manifest["files"]) == set(FILES) - {"manifest.json"}


# ----- refused at the door


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_tensor_is_refused_and_nothing_is_written(tmp_path: Path, bad: float) -> None:
    model = a_model()
    model["fc1.weight"][1, 2] = bad
    with pytest.raises(NonFiniteCheckpointError, match=r"'fc1.weight' has 1 non-finite of 12 values"):
        save(tmp_path, model, an_optimizer(), a_state())
    assert list(tmp_path.iterdir()) == []


def test_a_non_finite_optimizer_tensor_or_further_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteCheckpointError, match="optimizer tensor 'm'"):
        save(tmp_path, {}, {"m": torch.tensor([float("nan")])}, a_state())
    with pytest.raises(NonFiniteCheckpointError, match="tensor/anchor"):
        save(tmp_path, {}, {}, a_state(tensors={"anchor": torch.tensor([float("inf")])}))


# ----- the same step again


def test_saving_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = {name: (path / name).stat().st_mtime_ns for name in FILES}
    assert saved(tmp_path) == path
    assert {name: (path / name).stat().st_mtime_ns for name in FILES} == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_other_content_for_the_same_step_takes_its_place(tmp_path: Path) -> None:
    saved(tmp_path)
    path = save(tmp_path, a_model(99), an_optimizer(), a_state())
    assert_same_tensors(load(path).model, a_model(99))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_damaged_folder_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / "model.safetensors").write_bytes(b"")
    assert saved(tmp_path) == path
    assert_same_tensors(load(path).model, a_model(8192))


# ----- damage


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit_in_the_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_a_link(file: Path) -> None:
    elsewhere = file.parent.parent / f"elsewhere-{file.name}"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


DAMAGES = (truncate, empty, flip_a_bit_in_the_middle, append, Path.unlink, make_a_folder, make_a_link)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_damage_to_every_file_is_seen(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    path = saved(tmp_path)
    damage(path / name)
    with pytest.raises(DamagedCheckpointError, match=name.replace(".", r"\.")):
        load(path)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_single_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, name: str, place: float, bit: int):
    path = saved(tmp_path_factory.mktemp("flip"))
    content = bytearray((path / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (path / name).write_bytes(content)
    with pytest.raises((DamagedCheckpointError, IncompatibleCheckpointError)):
        load(path)


def test_weights_of_another_checkpoint_are_seen(tmp_path: Path) -> None:
    one, other = saved(tmp_path, 100), saved(tmp_path, 200)
    shutil.copy(other / "model.safetensors", one / "model.safetensors")
    with pytest.raises(DamagedCheckpointError, match="does not have the SHA-256"):
        load(one)


def test_a_whole_checkpoint_under_the_name_of_another_step_is_seen(tmp_path: Path) -> None:
    path = saved(tmp_path, 100)
    renamed = path.rename(tmp_path / "step-000000000300")
    with pytest.raises(DamagedCheckpointError, match="holds agent step 100"):
        load(renamed)


def test_a_copy_under_a_free_name_can_be_loaded(tmp_path: Path) -> None:
    copy = shutil.copytree(saved(tmp_path), tmp_path / "exported")
    assert load(copy).state.progress.agent_step == 8192


def test_files_that_the_manifest_does_not_name_are_never_read(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert_same_tensors(load(path).model, a_model(8192))


def rewrite_manifest(path: Path, **changes: object) -> None:
    """A manifest that is consistent in itself, as a forger would write it."""
    manifest = json.loads((path / "manifest.json").read_bytes()) | changes
    text = json.dumps(manifest | {"checksum": ""}, indent=2, sort_keys=True) + "\n"
    manifest["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def forge(path: Path, name: str, content: bytes) -> None:
    (path / name).write_bytes(content)
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(path, files=files)


def test_a_newer_format_is_refused_by_name_and_not_called_damaged(tmp_path: Path) -> None:
    path = saved(tmp_path)
    rewrite_manifest(path, format_version=2, new_field=[1])
    with pytest.raises(IncompatibleCheckpointError, match="checkpoint format 2 is not known"):
        load(path)
    with pytest.raises(IncompatibleCheckpointError):
        newest_good(tmp_path)
    assert path.is_dir()


@pytest.mark.parametrize("names", [[*FILES[:4], "../../escape"], FILES[:3], []])
def test_a_manifest_with_other_files_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = saved(tmp_path)
    entry = {"size": 1, "sha256": "0" * 64}
    rewrite_manifest(path, files={name: entry for name in names})
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json names the files"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\x00" * 8,
        (1 << 40).to_bytes(8, "little") + b"{}",
        b"\x02\x00\x00\x00\x00\x00\x00\x00[]",
        b"\x80\x04.",
    ],
)
def test_forged_tensor_files_end_in_one_error(tmp_path: Path, content: bytes) -> None:
    path = saved(tmp_path)
    forge(path, "model.safetensors", content)
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": "1"},
        {"progress": {}},
        {"action_names": "abc"},
        {"action_names": [1]},
        {"metadata": []},
        {"unknown": 1},
        {"wandb_run_id": 5},
    ],
)
def test_a_state_with_another_schema_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = saved(tmp_path)
    state = json.loads((path / "state.json").read_bytes())
    forge(path, "state.json", json.dumps(state | change).encode())
    with pytest.raises(DamagedCheckpointError, match=r"state\.json is not as expected"):
        load(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200), name=st.sampled_from(FILES))
def test_arbitrary_bytes_end_in_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = saved(tmp_path_factory.mktemp("fuzz"))
    if name == "manifest.json":
        (path / name).write_bytes(content)
    else:
        forge(path, name, content)
    with pytest.raises((DamagedCheckpointError, IncompatibleCheckpointError)):
        load(path)


# ----- discovery


def test_nothing_saved_means_none(tmp_path: Path) -> None:
    assert newest_good(tmp_path) is None
    assert newest_good(tmp_path / "missing") is None
    assert checkpoint_folders(tmp_path / "missing") == ()


def test_newest_means_most_agent_steps_not_latest_written(tmp_path: Path) -> None:
    for agent_step in (900, 1000, 20):
        saved(tmp_path, agent_step)
    os.utime(tmp_path / "step-000000001000", (1, 1))
    assert [path.name for path in checkpoint_folders(tmp_path)] == [
        "step-000000000020",
        "step-000000000900",
        "step-000000001000",
    ]
    checkpoint = newest_good(tmp_path)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.state.progress.agent_step == 1000


def test_other_names_are_invisible(tmp_path: Path) -> None:
    path = saved(tmp_path, 100)
    for name in (
        ".tmp-step-000000000200-1-ab",
        "step-200",
        "step-000000000200.corrupt-1",
        "step-0000000002000",
        "latest",
    ):
        shutil.copytree(path, tmp_path / name)
    (tmp_path / "step-000000000300").write_text("a file")
    (tmp_path / "step-000000000400").symlink_to(path)
    assert checkpoint_folders(tmp_path) == (path,)


def test_a_folder_without_manifest_is_invisible(tmp_path: Path) -> None:
    good = saved(tmp_path, 100)
    torn = saved(tmp_path, 200)
    (torn / "manifest.json").unlink()
    assert checkpoint_folders(tmp_path) == (good,)
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None and checkpoint.path == good
    assert torn.is_dir()


def test_damaged_ones_are_set_aside_and_the_next_older_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, damaged, also_damaged = saved(tmp_path, 100), saved(tmp_path, 200), saved(tmp_path, 300)
    truncate(damaged / "model.safetensors")
    flip_a_bit_in_the_middle(also_damaged / "optimizer.safetensors")
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None and checkpoint.path == good
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000000100",
        "step-000000000200.corrupt-1",
        "step-000000000300.corrupt-1",
    ]
    assert "step-000000000300 is kept as step-000000000300.corrupt-1" in caplog.text
    assert "continuing from the older checkpoint step-000000000100" in caplog.text

    # The same step is reached again, damaged again and set aside beside the first.
    truncate(saved(tmp_path, 200) / "state.json")
    newest_good(tmp_path)
    assert (tmp_path / "step-000000000200.corrupt-1").is_dir()
    assert (tmp_path / "step-000000000200.corrupt-2").is_dir()


def test_all_damaged_is_an_error_now_and_later_and_nothing_is_touched(tmp_path: Path) -> None:
    for agent_step in (100, 200):
        truncate(saved(tmp_path, agent_step) / "model.safetensors")
    for _ in range(2):
        with pytest.raises(NoUsableCheckpointError, match="Nothing was deleted"):
            newest_good(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000100", "step-000000000200"]


def test_only_remains_are_never_a_silent_fresh_start(tmp_path: Path) -> None:
    saved(tmp_path, 100).rename(tmp_path / "step-000000000100.corrupt-1")
    with pytest.raises(NoUsableCheckpointError, match="corrupt-1"):
        newest_good(tmp_path)


# ----- crashes while saving


class Crash(BaseException):
    """Stands for the end of the process: nothing may catch it and clean up after it."""


def crash_points(monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException], stop_at: int) -> list[str]:
    """Let the `stop_at`-th call that changes or syncs something on the disk fail. Returns the calls so far."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            if len(calls) - 1 == stop_at:
                raise error()
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", counted("fsync", os.fsync))
    monkeypatch.setattr(pathlib.Path, "rename", counted("rename", pathlib.Path.rename))
    monkeypatch.setattr(pathlib.Path, "mkdir", counted("mkdir", pathlib.Path.mkdir))
    return calls


# The temporary folder, five files, the folder; rename, the parent.
WRITE_CALLS = ["mkdir", "fsync", "fsync", "fsync", "fsync", "fsync", "fsync"]
SAVE_CALLS = [*WRITE_CALLS, "rename", "fsync"]
REPLACE_CALLS = [*WRITE_CALLS, "rename", "rename", "fsync"]


def test_every_file_and_folder_is_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls = crash_points(patch, Crash, stop_at=-1)
        saved(tmp_path / "checkpoints")
    assert calls == ["mkdir", "fsync", *SAVE_CALLS], "the folder of all checkpoints and its parent come first"


@pytest.mark.parametrize("stop_at", range(len(SAVE_CALLS)))
@pytest.mark.parametrize("cleanup_runs", [True, False])
def test_a_crash_at_any_point_leaves_the_older_or_the_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, cleanup_runs: bool
) -> None:
    saved(tmp_path, 100)
    with monkeypatch.context() as patch:
        crash_points(patch, Crash, stop_at)
        if not cleanup_runs:
            patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Crash):
            saved(tmp_path, 200)
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None
    renamed = stop_at > SAVE_CALLS.index("rename")
    assert checkpoint.state.progress.agent_step == (200 if renamed else 100)
    assert_same_tensors(checkpoint.model, a_model(checkpoint.state.progress.agent_step))

    remove_unfinished(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    saved(tmp_path, 200)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-000000000100", "step-000000000200"]


@pytest.mark.parametrize("stop_at", range(len(REPLACE_CALLS)))
def test_a_crash_while_replacing_a_step_loses_neither_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    saved(tmp_path)
    with monkeypatch.context() as patch:
        crash_points(patch, Crash, stop_at)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Crash):
            save(tmp_path, a_model(99), an_optimizer(), a_state())
    remove_unfinished(tmp_path)
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None
    assert_same_tensors(checkpoint.model, a_model(99 if stop_at == len(REPLACE_CALLS) - 1 else 8192))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000008192"]


@pytest.mark.parametrize("stop_at", range(len(REPLACE_CALLS)))
def test_a_full_disk_is_one_typed_error_and_the_step_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    saved(tmp_path)
    with monkeypatch.context() as patch:
        crash_points(patch, lambda: OSError(28, "No space left on device"), stop_at)
        with pytest.raises(StorageError, match="the disk is full; free some space"):
            save(tmp_path, a_model(99), an_optimizer(), a_state())
    checkpoint = newest_good(tmp_path)
    assert checkpoint is not None
    assert_same_tensors(checkpoint.model, a_model(99 if stop_at == len(REPLACE_CALLS) - 1 else 8192))
    assert not any(path.name.startswith(".tmp-") for path in tmp_path.iterdir())


def test_an_unreadable_checkpoint_is_a_disk_error_not_a_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)

    def refuse(file: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", refuse)
        with pytest.raises(StorageError, match="permission denied"):
            newest_good(tmp_path)
    assert checkpoint_folders(tmp_path) == (path,)


def test_nothing_is_pickled_or_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickle was used")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "dumps"), (torch, "load"), (torch, "save")):
        monkeypatch.setattr(module, name, refuse)
    assert load(saved(tmp_path)).state.action_names == ("noop", "move", "turn")
