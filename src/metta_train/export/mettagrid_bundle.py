"""A bundle that MettaGrid's own loader takes: a folder, and a zip of the same files.

    policy_spec.json             what MettaGrid reads first: class, weights, arguments, the game's interface
    weights.safetensors          as metta-export --to safetensors, and the tables of the network's graph
    metta_policy_<hash>/         the class: player.py, network.py, and policy.py, which joins them

The package's name holds a hash of its content and the weights, so that bundles do not meet in one process. Nothing
in it imports metta_train.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from metta_train.export.comparison import StepFunction
from metta_train.export.network_source import NetworkSource
from metta_train.export.policy_file import PolicyDocument, render_policy
from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.specs.config_errors import ConfigError

SPEC, WEIGHTS, ZIP = "policy_spec.json", "weights.safetensors", ".zip"
_OLDEST = (1980, 1, 1, 0, 0, 0)  # of zip; equal bundles are equal bytes

_POLICY = '''\
"""The policy that policy_spec.json names."""

from __future__ import annotations

from .network import TENSORS, step
from .player import Player


class TrainedPolicy(Player):
    """{title}"""

    tensor_names = TENSORS
    network = staticmethod(step)
'''


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of a bundle, by path inside it."""

    package: str
    files: Mapping[str, bytes]


def build_bundle(network: NetworkSource, document: PolicyDocument, interface: str, title: str) -> Bundle:
    """Render all files; nothing is written.

    Args:
        network: the graph of the policy, written down.
        document: what it is.
        interface: MettaGrid's PolicyEnvInterface of the game, as JSON.
        title: the policy in a few words.
    """
    weights = render_policy(network.tensors, document)
    code = {
        "__init__.py": f'"""{title}"""\n'.encode(),
        "network.py": network.text.encode(),
        "player.py": files("metta_train.export").joinpath("player.py").read_bytes(),
        "policy.py": _POLICY.format(title=title).encode(),
    }
    digest = hashlib.sha256()
    for name, content in sorted({**code, WEIGHTS: weights}.items()):
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    package = f"metta_policy_{digest.hexdigest()[:12]}"
    spec = {
        "class_path": f"{package}.policy.TrainedPolicy",
        "data_path": WEIGHTS,
        "init_kwargs": {"device": "cpu", "greedy": True},  # MettaGrid changes a device that stands here
        "policy_env_interface": json.loads(interface),
    }
    return Bundle(
        package,
        {
            SPEC: (json.dumps(spec, indent=2) + "\n").encode(),
            WEIGHTS: weights,
            **{f"{package}/{name}": content for name, content in code.items()},
        },
    )


def load_step(network: NetworkSource) -> StepFunction:
    """The function of a network's module, imported as a consumer will import it."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.py"
        file.write_text(network.text)
        located = spec_from_file_location("network", file)
        assert located is not None and located.loader is not None
        module = module_from_spec(located)
        located.loader.exec_module(module)
    tensors = [network.tensors[name] for name in module.__dict__["TENSORS"]]
    step = module.__dict__["step"]

    def stepped(observations: Tensor, resets: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return step(*tensors, observations, resets, *state)

    return stepped


def write_bundle(bundle: Bundle, folder: Path) -> Path:
    """Write the folder, and the zip beside it, whose path is returned.

    A bundle that is there already is replaced; a zip only by the same bytes, because MettaGrid keeps what it extracted
    under the zip's path and would go on with the old policy.

    Raises:
        ConfigError: something else is there.
        StorageError: the disk refused.
    """
    archive = folder.with_name(folder.name + ZIP)
    content = _zipped(bundle)
    with storage_errors("write the bundle", folder):
        if folder.is_symlink() or (folder.exists() and not (folder / SPEC).is_file()):
            raise ConfigError(f"{folder}: is there already and is no bundle; choose another --out")
        if archive.exists() and archive.read_bytes() != content:
            raise ConfigError(
                f"{archive}: is there already with other content, and MettaGrid would keep to the old one; "
                "choose another --out, or remove it and MettaGrid's cache"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_folder(bundle, folder)
        replace_file(archive, content)
    return archive


def _write_folder(bundle: Bundle, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name, content in bundle.files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _zipped(bundle: Bundle) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(bundle.files.items()):
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
