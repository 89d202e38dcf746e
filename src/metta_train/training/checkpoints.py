"""Checkpoints: one folder per saved step, whole or not there, verified before use, and never unpickled.

    checkpoints/step-000000012345/
        model.safetensors       weights under their canonical names
        optimizer.safetensors   optimizer tensors
        state.safetensors       random generator states (`random/...`) and further tensors (`tensor/...`)
        state.json              counters, action names and metadata
        manifest.json           sizes and SHA-256 of the others; written last

A checkpoint is written in a temporary sibling, put on the disk file by file, and renamed. `checkpoint_files.py` knows
what stands in the files.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from metta_train.reporting.storage import storage_errors, sync_folder, write_durably
from metta_train.training.checkpoint_files import (
    CONTENT_FILES,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    TENSORS_FILE,
    CheckpointState,
    DamagedCheckpointError,
    IncompatibleCheckpointError,
    parse_state,
    parse_tensors,
    read_manifest,
    read_verified,
    render,
    render_manifest,
)
from metta_train.training.checkpoint_listing import BY_REWARD

_STEP_FOLDER = re.compile(r"step-(\d{12})")
_SET_ASIDE = re.compile(r"step-(\d{12})\.corrupt-(\d+)")
_REPLACED = re.compile(r"\.replaced-(step-\d{12})")
_TRASH_PREFIX = ".trash-"
_TEMPORARY_PREFIX = ".tmp-"  # does not match _STEP_FOLDER, so a torn folder is never taken for a checkpoint

logger = logging.getLogger(__name__)


class NoUsableCheckpointError(Exception):
    """There are checkpoints and none of them is good; starting afresh silently is not an option (exit code 3)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint in memory; all tensors are on the CPU."""

    path: Path
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: CheckpointState


def save(folder: Path, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: CheckpointState) -> Path:
    """Write `folder/step-<agent_step>` and return its path once the disk has it.

    The same content again changes nothing. Other content for the same step takes the place of the old one, which is
    kept until the new one is complete.

    Raises:
        NonFiniteCheckpointError: a tensor holds NaN or infinity; nothing was written.
        StorageError: the disk refused; earlier checkpoints are untouched.
    """
    contents = render(model, optimizer, state)
    target = folder / _folder_name(state.progress.agent_step)
    with storage_errors("write the checkpoint", target):
        if not folder.exists():
            folder.mkdir(exist_ok=True)  # not its parents: a run folder that somebody removed does not come back
            sync_folder(folder.parent)
        if target.exists() and _holds(target, contents):
            return target
        _check_space(folder, sum(len(content) for content in contents.values()))
        temporary = folder / f"{_TEMPORARY_PREFIX}{target.name}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            _write_folder(temporary, contents)
            _put_in_place(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder; every byte is hashed before it is parsed.

    Files in the folder that the manifest does not name are ignored: nothing reads them.

    Raises:
        DamagedCheckpointError: anything is missing or differs from the manifest.
        IncompatibleCheckpointError: written in a format that this version does not know.
        StorageError: the disk cannot be read.
    """
    with storage_errors("read the checkpoint", path):
        manifest = read_manifest(path)
        contents = {name: read_verified(path, name, manifest.files[name]) for name in CONTENT_FILES}
    model = parse_tensors(path, MODEL_FILE, contents[MODEL_FILE])
    optimizer = parse_tensors(path, OPTIMIZER_FILE, contents[OPTIMIZER_FILE])
    state = parse_state(path, contents[STATE_FILE], parse_tensors(path, TENSORS_FILE, contents[TENSORS_FILE]))
    named_step = _STEP_FOLDER.fullmatch(path.name)
    if named_step and int(named_step[1]) != state.progress.agent_step:
        raise DamagedCheckpointError(f"{path}: holds agent step {state.progress.agent_step}, not the one in its name")
    return Checkpoint(path=path, model=model, optimizer=optimizer, state=state)


def verify(path: Path) -> None:
    """Hash every file of a checkpoint against its manifest. Raises as `load`."""
    with storage_errors("read the checkpoint", path):
        manifest = read_manifest(path)
        for name in CONTENT_FILES:
            read_verified(path, name, manifest.files[name])


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """What decides whether a checkpoint stays."""

    path: Path
    epoch: int
    agent_step: int
    score: float | None  # larger is better
    scored_by: str = BY_REWARD  # what the score is; two of different kinds are not compared


def summary(path: Path) -> CheckpointSummary:
    """Read the small files of a checkpoint only; its tensors are not verified. Raises as `load`."""
    with storage_errors("read the checkpoint", path):
        manifest = read_manifest(path)
        state = parse_state(path, read_verified(path, STATE_FILE, manifest.files[STATE_FILE]), {})
    score, scored_by = state.metadata.get("score"), state.metadata.get("scored_by")
    return CheckpointSummary(
        path=path,
        epoch=state.progress.epoch,
        agent_step=state.progress.agent_step,
        score=score if isinstance(score, float) else None,
        scored_by=scored_by if isinstance(scored_by, str) else BY_REWARD,
    )


def remove(path: Path) -> None:
    """Make a checkpoint invisible in one step, then delete it. What an OSError leaves is cleaned at the next start."""
    trash = path.with_name(f"{_TRASH_PREFIX}{path.name}-{secrets.token_hex(4)}")
    path.rename(trash)
    shutil.rmtree(trash)


def checkpoint_folders(folder: Path) -> tuple[Path, ...]:
    """The complete checkpoints in `folder`, oldest agent step first; not verified. Modification times play no role."""
    if not folder.is_dir():
        return ()
    with storage_errors("list", folder):
        return tuple(sorted(path for path in folder.iterdir() if _is_step(path) and (path / MANIFEST_FILE).exists()))


def newest_good(folder: Path) -> Checkpoint | None:
    """The checkpoint with the most agent steps that verifies; None when nothing was ever saved here.

    Damaged ones that are newer than it are renamed to `step-....corrupt-<n>` and kept. When no good one is left,
    nothing is renamed.

    Raises:
        NoUsableCheckpointError: there are checkpoints, and all are damaged or incomplete.
        IncompatibleCheckpointError, StorageError: as in `load`; such a checkpoint is not set aside.
    """
    damaged: list[tuple[Path, DamagedCheckpointError]] = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            checkpoint = load(path)
        except DamagedCheckpointError as error:
            logger.error("checkpoint is damaged: %s", error)
            damaged.append((path, error))
            continue
        for damaged_path, _ in damaged:
            kept_as = _set_aside(damaged_path)
            logger.error("damaged checkpoint %s is kept as %s", damaged_path.name, kept_as.name)
        if damaged:
            logger.error("continuing from the older checkpoint %s", path.name)
        return checkpoint
    remains = _remains(folder)
    if not remains:
        return None
    reasons = "; ".join(str(error) for _, error in damaged) or "incomplete or set aside as corrupt: " + ", ".join(
        remains
    )
    raise NoUsableCheckpointError(
        f"no usable checkpoint in {folder} ({reasons}). Nothing was deleted. "
        "Restore one of them, or start again under another run name."
    )


def remove_unfinished(folder: Path) -> None:
    """Clean up after a process that died while saving. Call it only while holding the run's lock."""
    if not folder.is_dir():
        return
    with storage_errors("clean up", folder):
        for path in sorted(folder.iterdir()):
            replaced = _REPLACED.fullmatch(path.name)
            if replaced and not (folder / replaced[1]).exists():
                path.rename(folder / replaced[1])  # the process died between the two renames of `_put_in_place`
                logger.warning("restored checkpoint %s, whose replacement was not finished", replaced[1])
            elif replaced or path.name.startswith((_TEMPORARY_PREFIX, _TRASH_PREFIX)):
                shutil.rmtree(path)
                logger.info("removed %s, which a process left behind", path.name)


def _folder_name(agent_step: int) -> str:
    assert 0 <= agent_step < 10**12, f"agent step {agent_step} does not fit the folder name"
    return f"step-{agent_step:012d}"


def _check_space(folder: Path, size: int) -> None:
    """Refuse before anything is written where there is no room for it and for what others write meanwhile."""
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MiB are free, a checkpoint needs {2 * size / 2**20:.0f} MiB")


def _write_folder(temporary: Path, contents: Mapping[str, bytes]) -> None:
    temporary.mkdir()
    for name in CONTENT_FILES:
        write_durably(temporary / name, contents[name])
    write_durably(temporary / MANIFEST_FILE, render_manifest(contents))
    sync_folder(temporary)


def _put_in_place(temporary: Path, target: Path) -> None:
    replaced = target.with_name(f".replaced-{target.name}")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    try:
        temporary.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    sync_folder(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced, ignore_errors=True)


def _holds(target: Path, contents: Mapping[str, bytes]) -> bool:
    """True when the checkpoint is whole and has exactly these contents."""
    try:
        manifest = read_manifest(target)
        return all(read_verified(target, name, manifest.files[name]) == contents[name] for name in CONTENT_FILES)
    except (DamagedCheckpointError, IncompatibleCheckpointError):
        return False


def _is_step(path: Path) -> bool:
    return _STEP_FOLDER.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _remains(folder: Path) -> list[str]:
    """Names that show that something was saved here once, good or not."""
    if not folder.is_dir():
        return []
    with storage_errors("list", folder):
        return sorted(path.name for path in folder.iterdir() if _is_step(path) or _SET_ASIDE.fullmatch(path.name))


def _set_aside(path: Path) -> Path:
    number = 1
    while (kept_as := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    with storage_errors("set aside", path):
        path.rename(kept_as)
        sync_folder(path.parent)
    return kept_as
