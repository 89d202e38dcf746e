"""The files of one checkpoint: what stands in them; each byte is checked before it is used, and never unpickled.

Equal content gives equal files, byte by byte: nothing in them but the manifest's version strings depends on when or
where they were written.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as render_safetensors
from torch import Tensor

from metta_train.specs.config_model import ConfigModel
from metta_train.specs.records import Progress

FORMAT_VERSION = 1

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
TENSORS_FILE = "state.safetensors"
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
CONTENT_FILES = (MODEL_FILE, OPTIMIZER_FILE, TENSORS_FILE, STATE_FILE)

# Far above any real checkpoint, low enough that a crafted file cannot exhaust the machine.
_MAX_JSON_BYTES = 64 << 20
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_TENSOR_FILE_BYTES = 64 << 30
_MAX_TENSOR_HEADER_BYTES = 16 << 20
_MAX_TENSORS = 100_000


class DamagedCheckpointError(Exception):
    """The folder is not what was written: a file is missing, torn, altered or exchanged."""


class IncompatibleCheckpointError(ValueError):
    """The checkpoint is whole, but this version cannot read its format."""


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


# ----- writing


def render(model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: CheckpointState) -> dict[str, bytes]:
    """The files of a checkpoint but its manifest, by name; nothing is written. Raises NonFiniteCheckpointError."""
    for name, random_state in state.random_states.items():
        assert random_state.dtype == torch.uint8, f"random state {name!r} is {random_state.dtype}, must be uint8"
    further = {f"random/{name}": tensor for name, tensor in state.random_states.items()}
    further |= {f"tensor/{name}": tensor for name, tensor in state.tensors.items()}
    state_file = _StateFile(
        format_version=FORMAT_VERSION,
        progress=_ProgressFile(**asdict(state.progress)),
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


def render_manifest(contents: Mapping[str, bytes]) -> bytes:
    """The manifest of what `render` gave."""
    files = {name: FileEntry(size=len(content), sha256=_sha256(content)) for name, content in contents.items()}
    versions = {"torch": torch.__version__, "safetensors": version("safetensors"), "metta-train": _own_version()}
    manifest = Manifest(format_version=FORMAT_VERSION, files=files, versions=versions, checksum="")
    return _render_json(manifest.model_copy(update={"checksum": _sha256(_render_json(manifest))}))


def _own_version() -> str:
    try:
        return version("metta-train")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


# ----- reading


class FileEntry(ConfigModel):
    """What the manifest says of one file."""

    size: Annotated[int, Field(ge=0, le=_MAX_TENSOR_FILE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(ConfigModel):
    """manifest.json."""

    format_version: int
    files: dict[str, FileEntry]
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


def read_manifest(path: Path) -> Manifest:
    """That of the checkpoint folder. Raises DamagedCheckpointError, IncompatibleCheckpointError, OSError."""
    content = _read_regular_file(path / MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    try:
        format_version = _FormatVersion.model_validate_json(content).format_version
        if format_version != FORMAT_VERSION:
            raise IncompatibleCheckpointError(
                f"{path}: checkpoint format {format_version} is not known here (this version reads format "
                f"{FORMAT_VERSION}); use the metta-train version that wrote it"
            )
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise DamagedCheckpointError(f"{path}: {MANIFEST_FILE} is not a manifest ({_first_problem(error)})") from error
    expected = _sha256(_render_json(manifest.model_copy(update={"checksum": ""})))
    if manifest.checksum != expected or content != _render_json(manifest):
        raise DamagedCheckpointError(f"{path}: {MANIFEST_FILE} has been altered")
    if set(manifest.files) != set(CONTENT_FILES):
        raise DamagedCheckpointError(f"{path}: {MANIFEST_FILE} names the files {sorted(manifest.files)}")
    return manifest


def read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    """A file of the checkpoint folder, which is what the manifest says. Raises DamagedCheckpointError, OSError."""
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


def parse_tensors(path: Path, name: str, content: bytes) -> dict[str, Tensor]:
    """The tensors of a verified file, on the CPU. Raises DamagedCheckpointError."""
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


def parse_state(path: Path, content: bytes, further: Mapping[str, Tensor]) -> CheckpointState:
    """state.json and the tensors of state.safetensors. Raises DamagedCheckpointError."""
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
    return CheckpointState(
        progress=Progress(**file.progress.model_dump()),
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
