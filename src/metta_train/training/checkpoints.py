"""Checkpoints: one folder per saved step, whole or not there, verified before use, and never unpickled.

    checkpoints/step-000000012345/
        model.safetensors       weights under their canonical names
        optimizer.safetensors   optimizer tensors
        state.safetensors       random generator states (`random/...`) and further tensors (`tensor/...`)
        state.json              counters, action names and metadata
        manifest.json           sizes and SHA-256 of the others; written last

A checkpoint is written in a temporary sibling, put on the disk file by file, and renamed. Equal content gives equal
files, byte by byte: nothing in them but the manifest's version strings depends on when or where they were written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from metta_train.reporting.storage import storage_errors, sync_folder, write_durably
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.records import Progress
from metta_train.training.checkpoint_listing import BY_REWARD

FORMAT_VERSION = 1

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
TENSORS_FILE = "state.safetensors"
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
CONTENT_FILES = (MODEL_FILE, OPTIMIZER_FILE, TENSORS_FILE, STATE_FILE)

_STEP_FOLDER = re.compile(r"step-(\d{12})")
_SET_ASIDE = re.compile(r"step-(\d{12})\.corrupt-(\d+)")
_REPLACED = re.compile(r"\.replaced-(step-\d{12})")
_TRASH_PREFIX = ".trash-"
_TEMPORARY_PREFIX = ".tmp-"  # does not match _STEP_FOLDER, so a torn folder is never taken for a checkpoint

# Far above any real checkpoint, low enough that a crafted file cannot exhaust the machine.
_MAX_JSON_BYTES = 64 << 20
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_TENSOR_FILE_BYTES = 64 << 30
_MAX_TENSOR_HEADER_BYTES = 16 << 20
_MAX_TENSORS = 100_000

logger = logging.getLogger(__name__)


class DamagedCheckpointError(Exception):
    """The folder is not what was written: a file is missing, torn, altered or exchanged."""


class IncompatibleCheckpointError(ValueError):
    """The checkpoint is whole, but this version cannot read its format."""


class NoUsableCheckpointError(Exception):
    """There are checkpoints and none of them is good; starting afresh silently is not an option (exit code 3)."""


class NonFiniteCheckpointError(ValueError):
    """A tensor holds NaN or infinity, so it was not saved (exit code 7)."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """All of a run besides weights and optimizer tensors.

    Attributes:
        progress: the counters at the moment of saving; `agent_step` names the folder.
        action_names: actions in order of first activation; position k owns embedding row k + 1.
        agent: what the weights belong to, e.g. "fast".
        environment: name of the EnvironmentSpec.
        wandb_run_id: so that a continued run goes on in the same wandb run; None without wandb.
        metadata: further plain values (JSON).
        random_states: uint8 states of random generators, by stream name.
        tensors: further tensors, e.g. "anchors/cnn1.weight".
    """

    progress: Progress
    action_names: tuple[str, ...] = ()
    agent: str = ""
    environment: str = ""
    wandb_run_id: str | None = None
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    random_states: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


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


def render(model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: CheckpointState) -> dict[str, bytes]:
    """The files of a checkpoint but its manifest, by name; nothing is written. Raises NonFiniteCheckpointError."""
    for name, random_state in state.random_states.items():
        assert random_state.dtype == torch.uint8, f"random state {name!r} is {random_state.dtype}, must be uint8"
    further = {f"random/{name}": tensor for name, tensor in state.random_states.items()}
    further |= {f"tensor/{name}": tensor for name, tensor in state.tensors.items()}
    progress = state.progress
    state_file = _StateFile(
        format_version=FORMAT_VERSION,
        progress=_ProgressFile(
            epoch=progress.epoch,
            agent_step=progress.agent_step,
            optimizer_steps=progress.optimizer_steps,
            train_time=progress.train_time,
            total_time=progress.total_time,
        ),
        action_names=state.action_names,
        agent=state.agent,
        environment=state.environment,
        wandb_run_id=state.wandb_run_id,
        metadata=dict(state.metadata),
    )
    return {
        MODEL_FILE: _render_tensors("model", model),
        OPTIMIZER_FILE: _render_tensors("optimizer", optimizer),
        TENSORS_FILE: _render_tensors("state", further),
        STATE_FILE: _render_json(state_file),
    }


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder; every byte is hashed before it is parsed.

    Files in the folder that the manifest does not name are ignored: nothing reads them.

    Raises:
        DamagedCheckpointError: anything is missing or differs from the manifest.
        IncompatibleCheckpointError: written in a format that this version does not know.
        StorageError: the disk cannot be read.
    """
    with storage_errors("read the checkpoint", path):
        manifest = _read_manifest(path)
        contents = {name: _read_verified(path, name, manifest.files[name]) for name in CONTENT_FILES}
    model = _parse_tensors(path, MODEL_FILE, contents[MODEL_FILE])
    optimizer = _parse_tensors(path, OPTIMIZER_FILE, contents[OPTIMIZER_FILE])
    state = _parse_state(path, contents[STATE_FILE], _parse_tensors(path, TENSORS_FILE, contents[TENSORS_FILE]))
    named_step = _STEP_FOLDER.fullmatch(path.name)
    if named_step and int(named_step[1]) != state.progress.agent_step:
        raise DamagedCheckpointError(f"{path}: holds agent step {state.progress.agent_step}, not the one in its name")
    return Checkpoint(path=path, model=model, optimizer=optimizer, state=state)


def verify(path: Path) -> None:
    """Hash every file of a checkpoint against its manifest. Raises as `load`."""
    with storage_errors("read the checkpoint", path):
        manifest = _read_manifest(path)
        for name in CONTENT_FILES:
            _read_verified(path, name, manifest.files[name])


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
        manifest = _read_manifest(path)
        state = _parse_state(path, _read_verified(path, STATE_FILE, manifest.files[STATE_FILE]), {})
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


# ----- writing


def _folder_name(agent_step: int) -> str:
    assert 0 <= agent_step < 10**12, f"agent step {agent_step} does not fit the folder name"
    return f"step-{agent_step:012d}"


def _render_tensors(what: str, tensors: Mapping[str, Tensor]) -> bytes:
    plain: dict[str, Tensor] = {}
    for name in sorted(tensors):
        assert name and name != "__metadata__", f"{what} tensor name {name!r} is reserved by safetensors"
        # A copy: contiguous, on the CPU, and not sharing memory with another entry (safetensors refuses that).
        tensor = tensors[name].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise NonFiniteCheckpointError(
                f"{what} tensor {name!r} has {count} non-finite of {tensor.numel()} values; nothing was saved"
            )
        plain[name] = tensor
    assert len(plain) <= _MAX_TENSORS, f"{len(plain)} {what} tensors exceed the limit of {_MAX_TENSORS}"
    return render_safetensors(plain)


def _render_json(file: ConfigModel) -> bytes:
    return (json.dumps(file.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _render_manifest(contents: Mapping[str, bytes]) -> bytes:
    files = {name: _FileEntry(size=len(content), sha256=_sha256(content)) for name, content in contents.items()}
    versions = {"torch": torch.__version__, "safetensors": version("safetensors"), "metta-train": _own_version()}
    manifest = _Manifest(format_version=FORMAT_VERSION, files=files, versions=versions, checksum="")
    return _render_json(manifest.model_copy(update={"checksum": _sha256(_render_json(manifest))}))


def _check_space(folder: Path, size: int) -> None:
    """Refuse before anything is written where there is no room for it and for what others write meanwhile."""
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MiB are free, a checkpoint needs {2 * size / 2**20:.0f} MiB")


def _write_folder(temporary: Path, contents: Mapping[str, bytes]) -> None:
    temporary.mkdir()
    for name in CONTENT_FILES:
        write_durably(temporary / name, contents[name])
    write_durably(temporary / MANIFEST_FILE, _render_manifest(contents))
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
        manifest = _read_manifest(target)
        return all(_read_verified(target, name, manifest.files[name]) == contents[name] for name in CONTENT_FILES)
    except (DamagedCheckpointError, IncompatibleCheckpointError):
        return False


def _own_version() -> str:
    try:
        return version("metta-train")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


# ----- reading


class _FileEntry(ConfigModel):
    size: Annotated[int, Field(ge=0, le=_MAX_TENSOR_FILE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Manifest(ConfigModel):
    format_version: int
    files: dict[str, _FileEntry]
    versions: dict[str, str]
    checksum: str  # SHA-256 of this file with an empty checksum


class _ProgressFile(ConfigModel):
    epoch: Annotated[int, Field(ge=0)]
    agent_step: Annotated[int, Field(ge=0, lt=10**12)]
    optimizer_steps: Annotated[int, Field(ge=0)]
    train_time: Annotated[float, Field(ge=0.0)]
    total_time: Annotated[float, Field(ge=0.0)]


class _StateFile(ConfigModel):
    format_version: Literal[1]
    progress: _ProgressFile
    action_names: tuple[str, ...]
    agent: str
    environment: str
    wandb_run_id: str | None
    metadata: dict[str, JsonValue]


class _FormatVersion(ConfigModel):
    """Only the field that every format has, to tell a newer format from a damaged file."""

    model_config = ConfigDict(extra="ignore")

    format_version: int


def _read_manifest(path: Path) -> _Manifest:
    content = _read_regular_file(path / MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    try:
        format_version = _FormatVersion.model_validate_json(content).format_version
        if format_version != FORMAT_VERSION:
            raise IncompatibleCheckpointError(
                f"{path}: checkpoint format {format_version} is not known here (this version reads format "
                f"{FORMAT_VERSION}); use the metta-train version that wrote it"
            )
        manifest = _Manifest.model_validate_json(content)
    except ValidationError as error:
        raise DamagedCheckpointError(f"{path}: {MANIFEST_FILE} is not a manifest ({_first_problem(error)})") from error
    expected = _sha256(_render_json(manifest.model_copy(update={"checksum": ""})))
    if manifest.checksum != expected or content != _render_json(manifest):
        raise DamagedCheckpointError(f"{path}: {MANIFEST_FILE} has been altered")
    if set(manifest.files) != set(CONTENT_FILES):
        raise DamagedCheckpointError(f"{path}: {MANIFEST_FILE} names the files {sorted(manifest.files)}")
    return manifest


def _read_verified(path: Path, name: str, entry: _FileEntry) -> bytes:
    file = path / name
    content = _read_regular_file(file, _MAX_JSON_BYTES if name == STATE_FILE else _MAX_TENSOR_FILE_BYTES)
    if len(content) != entry.size:
        raise DamagedCheckpointError(f"{path}: {name} has {len(content)} bytes, the manifest says {entry.size}")
    if _sha256(content) != entry.sha256:
        raise DamagedCheckpointError(f"{path}: {name} does not have the SHA-256 of the manifest")
    return content


def _read_regular_file(file: Path, limit: int) -> bytes:
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedCheckpointError(f"{file.parent}: {file.name} is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedCheckpointError(f"{file.parent}: {file.name} is not a regular file")
    if status.st_size > limit:
        raise DamagedCheckpointError(f"{file.parent}: {file.name} has {status.st_size} bytes, more than {limit}")
    return file.read_bytes()


def _parse_tensors(path: Path, name: str, content: bytes) -> dict[str, Tensor]:
    header_bytes = int.from_bytes(content[:8], "little")
    if header_bytes > _MAX_TENSOR_HEADER_BYTES:
        raise DamagedCheckpointError(f"{path}: {name} has a header of {header_bytes} bytes")
    try:
        tensors = parse_safetensors(content)
    except SafetensorError as error:
        raise DamagedCheckpointError(f"{path}: {name} is not a safetensors file ({error})") from error
    if len(tensors) > _MAX_TENSORS:
        raise DamagedCheckpointError(f"{path}: {name} has {len(tensors)} tensors, more than {_MAX_TENSORS}")
    return tensors


def _parse_state(path: Path, content: bytes, further: Mapping[str, Tensor]) -> CheckpointState:
    try:
        file = _StateFile.model_validate_json(content)
    except ValidationError as error:
        raise DamagedCheckpointError(f"{path}: {STATE_FILE} is not as expected ({_first_problem(error)})") from error
    groups: dict[str, dict[str, Tensor]] = {"random": {}, "tensor": {}}
    for key, tensor in further.items():
        group, _, name = key.partition("/")
        if group not in groups or not name:
            raise DamagedCheckpointError(f"{path}: {TENSORS_FILE} has the unknown tensor {key!r}")
        groups[group][name] = tensor
    if any(tensor.dtype != torch.uint8 for tensor in groups["random"].values()):
        raise DamagedCheckpointError(f"{path}: {TENSORS_FILE} has a random state that is not uint8")
    progress = file.progress
    return CheckpointState(
        progress=Progress(
            epoch=progress.epoch,
            agent_step=progress.agent_step,
            optimizer_steps=progress.optimizer_steps,
            train_time=progress.train_time,
            total_time=progress.total_time,
        ),
        action_names=file.action_names,
        agent=file.agent,
        environment=file.environment,
        wandb_run_id=file.wandb_run_id,
        metadata=file.metadata,
        random_states=groups["random"],
        tensors=groups["tensor"],
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ----- folders


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
