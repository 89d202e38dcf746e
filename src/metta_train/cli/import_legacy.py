"""`metta-runs import-legacy`: a run made of the weights in an old `.pt` file."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from metta_train.cli.arguments import HelpText, data_dir_of
from metta_train.cli.exit_codes import DONE
from metta_train.reporting.results import print_json
from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.config_model import ConfigModel

if TYPE_CHECKING:
    from torch import Tensor

    from metta_train.run_config import RunConfig

SECONDS = 300.0  # for the process that reads the file
MAX_ANSWER = 1 << 20  # characters
SHOWN = 12  # differences

DESCRIPTION = """\
Make a run of the weights in a .pt file of the original system, for an agent
and an environment of ours.

Such a file is a pickle, which can hold anything, programs included. It is
read in a process of its own, without network, secrets and children, with
bounded memory and time, by a reader that calls nothing in it. Still, give it
only files whose origin you know: --trust-pickle says that you do."""
EPILOG = """\
example:
  metta-runs import-legacy model_0100.pt experiment=original \\
    --run old --trust-pickle
  metta-train experiment=original run=on \\
    trainer.initial_policy.uri=file://train_dir/old/checkpoints/step-000000000000"""


class _Answer(ConfigModel):
    """What `cli/legacy_pickle.py` prints."""

    error: str | None = None
    place: str = ""
    buffers: tuple[str, ...] = ()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command, on a parser of its own."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = HelpText
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="agent and environment, as for metta-train")
    parser.add_argument("--run", required=True, metavar="NAME", help="of the new run")
    parser.add_argument("--trust-pickle", action="store_true", help="the file comes from somebody whom you trust")
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a tensor of the file, and the weight that it is; may be repeated",
    )
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="OLD", help="a tensor, or pattern, that is no weight"
    )
    parser.add_argument(
        "--first-action-row",
        type=int,
        choices=(0, 1),
        default=1,
        help="row of the first action in the embeddings: 1 in the original's agent=fast, 0 in its py_agent=fast; "
        "default 1",
    )


def import_legacy(options: argparse.Namespace) -> int:
    """Run the command; the result is the exit code."""
    if not options.trust_pickle:
        raise ConfigError(
            f"{options.file}: a .pt file is a pickle, which can run programs when it is read; if you know where it "
            "comes from, add --trust-pickle. Nothing was read."
        )
    renamed = dict(_renaming(text) for text in options.rename)
    config = _config(options)
    content_hash = _hash(options.file)
    tensors, answer = _read(options.file)

    from metta_train.envs.build import environment_spec
    from metta_train.policies.build import build_policy_from
    from metta_train.training.legacy_checkpoint import EMBEDDINGS, match_weights, rows_from_one

    policy = build_policy_from(config.chosen_agent, environment_spec(config.env), config.seed)
    matched = match_weights(
        policy.state_dict(), tensors, renamed=renamed, buffers=answer.buffers, left_out=options.leave_out
    )
    if matched.differences:
        more = len(matched.differences) - SHOWN
        listed = "; ".join(matched.differences[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise ConfigError(f"{options.file} does not fit {config.agent_name} on {policy.spec.name}: {listed}")
    weights = matched.weights
    if options.first_action_row == 0 and EMBEDDINGS in weights:
        weights[EMBEDDINGS] = rows_from_one(weights[EMBEDDINGS])
    policy.load_state_dict(weights)

    from metta_train.specs.records import Progress
    from metta_train.training import checkpoints
    from metta_train.training.checkpoint_files import CheckpointState
    from metta_train.training.run_folder import RunFolder
    from metta_train.training.run_status import RunStatus

    with RunFolder.open(config.data_dir, config.run) as folder:
        if folder.paths.config.exists() or folder.paths.checkpoints.exists():
            raise ConfigError(f"run={config.run!r} exists; use another --run")
        folder.adopt_config(config.plain(), resuming=False)
        folder.record_invocation([Path(sys.argv[0]).name, *sys.argv[1:]])
        state = CheckpointState(
            Progress(),
            action_names=policy.action_names,
            agent=config.agent_name,
            environment=policy.spec.name,
            metadata={"imported_from": options.file.name, "imported_sha256": content_hash},
        )
        path = checkpoints.save(folder.paths.checkpoints, policy.state_dict(), {}, state)
        folder.write_status(RunStatus("done", epoch=0, agent_step=0, total_timesteps=0))
    if options.json:
        print_json({"run": config.run, "checkpoint": path, "weights": matched.sources})
        return DONE
    count = sum(tensor.numel() for tensor in weights.values())
    print(f"{config.run}: {len(weights)} tensors, {count:,} weights from {options.file} ({answer.place})")
    print(f"checkpoint  {path}")
    return DONE


def _renaming(text: str) -> tuple[str, str]:
    old, equals, new = text.rpartition("=")
    if not equals or not old or not new:
        raise ConfigError(f"--rename {text}: needs OLD=NEW")
    return old, new


def _config(options: argparse.Namespace) -> RunConfig:
    from metta_train.cli.compose import load_config

    given = [override.lstrip("+").partition("=")[0] for override in options.overrides]
    for key in ("run", "data_dir"):
        if key in given:
            raise ConfigError(f"{key}=...: here it is --{key.replace('_', '-')}")
    config = load_config([*options.overrides, f"run={options.run}"])
    return config.model_copy(update={"data_dir": data_dir_of(options)})


def _hash(file: Path) -> str:
    with storage_errors("read", file):
        if not file.is_file():
            raise ConfigError(f"{file}: no such file")
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()


def _read(file: Path) -> tuple[dict[str, Tensor], _Answer]:
    """Let a process of its own read the file."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tensors.safetensors"
        done = subprocess.run(
            [sys.executable, "-P", "-m", "metta_train.cli.legacy_pickle", str(file.resolve()), str(out)],
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
        try:
            answer = _Answer.model_validate_json(done.stdout[:MAX_ANSWER])
        except ValidationError as error:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ConfigError(f"{file} could not be read within its limits: {last[:200]}") from error
        if answer.error is not None:
            raise ConfigError(f"{file} cannot be imported: {answer.error[:500]}")

        from safetensors.torch import load_file

        return load_file(out), answer
