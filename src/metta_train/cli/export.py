"""`metta-export`: a trained policy for use elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metta_train.cli.arguments import HelpText, Parser, add_data_dir, add_version, data_dir_of, reported
from metta_train.cli.checkpoint_policy import load_checkpoint, policy_of
from metta_train.cli.compose import ConfigSource
from metta_train.cli.config_source import conf_folder
from metta_train.cli.env_overrides import with_env_overrides
from metta_train.cli.exit_codes import CRASH, DONE, exit_code_of
from metta_train.envs.config import EnvConfig, MettaGridEnvConfig
from metta_train.reporting.results import print_json, print_results, results_console
from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.training.run_catalog import find_reference, read_run_config

if TYPE_CHECKING:
    from metta_train.envs.mettagrid_interface import MettaGridInterface
    from metta_train.export.policy_file import PolicyDocument
    from metta_train.policies.policy import Policy
    from metta_train.training.checkpoints import Checkpoint

NOT_EXPORTED = ("run", "data_dir", "device", "wandb")  # places and accounts are nobody else's business

DESCRIPTION = """\
Write a trained policy for use elsewhere:
  mettagrid    a bundle (folder and zip) for MettaGrid's own loader, which needs
               torch and safetensors beside it, and not metta-train
  onnx         one step, recurrent state in and out, for any number of rows
  safetensors  weights and what they belong to, in one file

What is written is compared with the policy first."""
EPILOG = """\
examples:
  metta-export mine --to mettagrid           ./mine:v49 and ./mine:v49.zip
  metta-export mine:best --to mettagrid --out exports/
  metta-export mine:300000 --to onnx --out pilot.onnx
  metta-export mine --to safetensors --json | jq -r .files[0]

Exit code: 0 done, 2 bad usage or an agent that the format cannot hold,
3 no usable checkpoint, 5 disk or permissions."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What is exported."""

    policy: Policy
    config: RunConfig
    checkpoint: Checkpoint
    run: str
    document: PolicyDocument
    interface: MettaGridInterface | None  # of a MettaGrid game

    @property
    def title(self) -> str:
        """E.g. `mine:301056`."""
        return f"{self.run}:{self.document.agent_step}"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    facts: tuple[tuple[str, str], ...]  # label and words, for people
    largest_difference: float  # between policy and export


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return reported(lambda: _run(_parse(arguments)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="metta-export",
        usage="metta-export RUN[:checkpoint] --to FORMAT [--out PATH] [option ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpText,
        allow_abbrev=False,
    )
    add_version(parser)
    parser.add_argument("run", metavar="RUN[:checkpoint]", help="RUN:latest (default), RUN:best or RUN:<agent step>")
    parser.add_argument("--to", choices=sorted(_FORMATS), required=True, help="what to write")
    parser.add_argument("--out", metavar="PATH", help="file, or folder of a bundle; FOLDER/ keeps the usual name in it")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    add_data_dir(parser)
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in metta-train
    if options.to == "onnx":
        from metta_train.export.onnx_model import check_onnx_is_installed

        check_onnx_is_installed()
    try:
        trained = _trained(options)
        exported = _FORMATS[options.to](trained, options.out)
    except (ValueError, RuntimeError) as error:
        if exit_code_of(error) != CRASH or not isinstance(error, ValueError):
            raise
        raise ConfigError(str(error)) from error  # the game's files, weights that do not fit
    if options.json:
        print_json(
            {
                "run": trained.run,
                "checkpoint": trained.checkpoint.path,
                "agent_step": trained.document.agent_step,
                "to": options.to,
                "files": exported.files,
                "largest_difference": exported.largest_difference,
            }
        )
    else:
        _print(trained, exported)
    return DONE


def _trained(options: argparse.Namespace) -> Trained:
    reference = find_reference(data_dir_of(options), options.run)
    run = reference.paths.run
    saved = read_run_config(reference.paths)
    config = with_env_overrides(saved, [], ConfigSource(conf_folder()), run)
    if options.to == "mettagrid" and not isinstance(config.env, MettaGridEnvConfig):
        raise ConfigError(
            f"--to mettagrid: run {run!r} trains on {config.env.type}, and MettaGrid plays its own games alone; "
            "use --to onnx or --to safetensors"
        )
    checkpoint = load_checkpoint(reference)

    from metta_train.envs.build import environment_spec
    from metta_train.export.policy_file import Origin, document_of

    policy = policy_of(config, environment_spec(config.env), checkpoint)
    interface = _interface(config.env)
    origin = Origin(
        run=run,
        agent=checkpoint.state.agent,
        epoch=checkpoint.state.progress.epoch,
        agent_step=checkpoint.state.progress.agent_step,
        config=_exported_config(saved, config),
    )
    document = document_of(policy, origin, {} if interface is None else interface.value_names)
    return Trained(policy, config, checkpoint, run, document, interface)


def _interface(config: EnvConfig) -> MettaGridInterface | None:
    if not isinstance(config, MettaGridEnvConfig):
        return None
    from metta_train.envs.mettagrid_interface import mettagrid_interface

    return mettagrid_interface(config)


def _exported_config(saved: Mapping[str, object], config: RunConfig) -> dict[str, Any]:
    """The saved configuration, with the keys that this version has given to agents and environments."""
    now = config.plain()
    values = {key: value for key, value in saved.items() if key not in NOT_EXPORTED}
    return {**values, **{key: now[key] for key in ("agent", "py_agent", "env") if key in now}}


# ----- formats


def _to_mettagrid(trained: Trained, out: str | None) -> Exported:
    from metta_train.export.comparison import checked_difference
    from metta_train.export.mettagrid_bundle import SPEC, ZIP, build_bundle, load_step, write_bundle
    from metta_train.export.network_source import network_source
    from metta_train.export.step_graph import capture_step

    assert trained.interface is not None
    folder = _target(out, f"{_label(trained)}:v{trained.document.epoch}", is_ours=lambda path: (path / SPEC).exists())
    folder = folder.with_name(folder.name.removesuffix(ZIP))
    network = network_source(capture_step(trained.policy), f"The network of {trained.title}.")
    difference = checked_difference(trained.policy, load_step(network), "the network of the bundle")
    bundle = build_bundle(network, trained.document, trained.interface.document, f"{trained.title}, by metta-train.")
    archive = write_bundle(bundle, folder)
    facts = (
        ("bundle", str(folder)),
        ("zip", f"{archive}  {_size(archive)}"),
        ("class", f"{bundle.package}.policy.TrainedPolicy"),
        ("needs", "mettagrid, torch, safetensors; not metta-train"),
        ("load with", f'policy_spec_from_uri("{archive}")'),
    )
    return Exported((folder, archive), facts, difference)


def _to_onnx(trained: Trained, out: str | None) -> Exported:
    from metta_train.export.onnx_model import onnx_model
    from metta_train.export.step_graph import capture_step

    file = _target(out, f"{_label(trained)}-{trained.document.agent_step}.onnx")
    model = onnx_model(trained.policy, capture_step(trained.policy), trained.document)
    _write(file, model.content)
    facts = (
        ("model", f"{file}  {_size(file)}"),
        ("inputs", "  ".join(model.inputs)),
        ("outputs", "  ".join(model.outputs)),
    )
    return Exported((file,), facts, model.largest_difference)


def _to_safetensors(trained: Trained, out: str | None) -> Exported:
    from metta_train.export.policy_file import render_policy

    file = _target(out, f"{_label(trained)}-{trained.document.agent_step}.safetensors")
    _write(file, render_policy(trained.policy.state_dict(), trained.document))
    facts = (
        ("weights", f"{file}  {_size(file)}"),
        ("load with", f'metta_train.export.policy_file.read_policy(Path("{file}"))'),
    )
    return Exported((file,), facts, 0.0)


_FORMATS: dict[str, Callable[[Trained, str | None], Exported]] = {
    "mettagrid": _to_mettagrid,
    "onnx": _to_onnx,
    "safetensors": _to_safetensors,
}


def _label(trained: Trained) -> str:
    return trained.run.replace("/", "-")


def _target(out: str | None, name: str, is_ours: Callable[[Path], bool] = lambda _: False) -> Path:
    """`--out`; a folder takes the usual name inside it, unless it is itself what is written again."""
    if out is None:
        return Path(name)
    path = Path(out).expanduser()
    inside = out.endswith("/") or (path.is_dir() and not is_ours(path))
    return path / name if inside else path


def _write(file: Path, content: bytes) -> None:
    with storage_errors("write", file):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, content)


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 2**20:.1f} MiB"


def _print(trained: Trained, exported: Exported) -> None:
    from rich.table import Table
    from rich.text import Text

    document = trained.document
    weights = sum(parameter.numel() for parameter in trained.policy.parameters())
    words = [document.agent, document.environment.name, f"{len(document.environment.actions)} actions"]
    title = Text.assemble((trained.title, "bold"), "  ", " · ".join([*words, f"{weights:,} parameters"]))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in exported.facts:
        table.add_row(label, Text(text))
    if exported.largest_difference:
        table.add_row(
            "checked", f"differs from the policy by at most {exported.largest_difference:.1e} (resets included)"
        )
    print_results(results_console(), [title, table])


if __name__ == "__main__":
    sys.exit(main())
