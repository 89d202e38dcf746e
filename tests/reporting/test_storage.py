from __future__ import annotations

import errno
from pathlib import Path

import pytest

from metta_train.reporting import storage
from metta_train.reporting.storage import (
    StorageError,
    make_folders,
    replace_file,
    storage_errors,
    sync_file,
    sync_folder,
    write_durably,
)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_disk_errors_say_what_where_and_what_to_do(number: int, advice: str) -> None:
    with pytest.raises(StorageError, match=rf"could not write /x/y: .*{advice}"), storage_errors("write", Path("/x/y")):
        raise OSError(number, "Input/output error")


def test_the_innermost_storage_error_is_kept() -> None:
    with (
        pytest.raises(StorageError, match="inner"),
        storage_errors("write", Path("outer")),
        storage_errors("write", Path("inner")),
    ):
        raise OSError(errno.ENOSPC, "full")


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), storage_errors("write", Path("x")):
        raise KeyError("a bug")


def test_write_durably_never_overwrites(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    sync_folder(tmp_path)


@pytest.mark.parametrize("durable", [True, False])
def test_replace_file_makes_and_replaces(tmp_path: Path, durable: bool) -> None:
    for content in (b"1", b"22"):
        replace_file(tmp_path / "a", content, durable=durable)
        assert (tmp_path / "a").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_new_folders_are_synced_into_the_ones_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(storage, "sync_folder", synced.append)
    make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path / "a", tmp_path]
    make_folders(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_file_is_synced_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(storage, "sync_folder", synced.append)
    (tmp_path / "a").touch()
    sync_file(tmp_path / "a")
    assert synced == [tmp_path]
    with pytest.raises(StorageError, match="could not write"):
        sync_file(tmp_path / "b")
