"""`metta-parity`: are two policies the same network? If not: where do they part, and what is the likely mistake?"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from metta_train.cli.arguments import HelpText, Parser, add_version, reported
from metta_train.cli.compose import ConfigSource, compose, run_config
from metta_train.cli.config_source import conf_folder
from metta_train.cli.exit_codes import DONE
from metta_train.cli.parity_report import ParityReport, show
from metta_train.specs.config_errors import ConfigError, nearest_choice

if TYPE_CHECKING:
    import torch

    from metta_train.envs.vector import VectorEnv
    from metta_train.policies.parity.findings import Section
    from metta_train.policies.policy import Policy
    from metta_train.run_config import RunConfig
    from metta_train.specs.environment_spec import EnvironmentSpec

DIFFERENT = 1
SECTIONS = ("structure", "initialisation", "forward", "backward", "weights", "training")

DESCRIPTION = """\
Compare two policies: parameters, initial values, the activations of every layer, gradients of the PPO loss, weight
operations, and training. The first one is the reference. Names the first layer that differs and the likely mistake."""

EPILOG = """\
examples:
  metta-parity agent=fast py_agent=fast
      a component graph (the reference) and a hand-written agent
  metta-parity agent=fast --against agent.components.critic_1.nonlinearity=nn.ReLU
      two agents of one kind: --against takes the overrides of the second one, on top of the first
  metta-parity agent=fast --policy mypackage.policies:MyFast --names names.yaml
      your own class: a subclass of metta_train.policies.policy.Policy whose constructor takes a spec, or of PyAgent,
      whose constructor takes a spec and its Options (from --option)
  metta-parity agent=fast py_agent=fast --spec spec.yaml --json out.json --tolerance forward=1e-6

files:
  --names  YAML, one line per parameter or layer: "name in the second policy: name in the first"
  --spec   YAML: name, num_agents, actions (a list of names, or types and max_arguments), and
           observation: {num_tokens, window_height, window_width, features: [{id, name, normalization, categories}]}
           or observation: {shape, dtype}

exit code: 0 all sections hold, 1 a difference was found, 2 bad input (one line on standard error)."""


@dataclass(frozen=True, slots=True)
class _Sides:
    """Two configurations that differ in the agent alone; the candidate may be a class instead."""

    reference: RunConfig
    candidate: RunConfig | None
    titles: tuple[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    return reported(lambda: _compared(list(sys.argv[1:] if arguments is None else arguments)))


def _compared(arguments: list[str]) -> int:
    try:
        return _run(_parse(arguments))
    except ConfigError:
        raise
    except ValueError as error:  # whatever does not fit: configuration, files, policies
        raise ConfigError(str(error)) from error


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="metta-parity",
        usage="metta-parity agent=... (py_agent=... | --against OVERRIDE | --policy MODULE:CLASS) [option ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpText,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_version(parser)
    add("overrides", nargs="*", metavar="key=value", help="configuration as of metta-train: agent, py_agent, env, seed")
    add(
        "--against", action="append", default=[], metavar="OVERRIDE", help="an agent or py_agent override of the second"
    )
    add("--policy", metavar="MODULE:CLASS", help="the second policy is a class of your own")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of that class; may be repeated")
    add("--names", type=Path, metavar="FILE", help="name map, where parameters have other names")
    add("--spec", type=Path, metavar="FILE", help="an EnvironmentSpec instead of the configured environment's")
    add("--json", metavar="FILE", help="write everything that was measured; - prints it instead of the table")
    add("--sections", metavar="A,B", help=f"only these of {', '.join(SECTIONS)}")
    add(
        "--tolerance",
        action="append",
        default=[],
        metavar="[SECTION=]NUMBER",
        help="largest difference that counts as equal, for a section or for all; default 0",
    )
    add("--epochs", type=int, default=3, metavar="N", help="epochs of the training section; default 3")
    add("--device", default="cpu", metavar="DEVICE", help="cpu (default), cuda or cuda:<number>")
    add("--real-env", action="store_true", help="train on the configured environment, not on a synthetic one")
    add("--config-dir", type=Path, metavar="FOLDER", help="a folder with groups of your own (agent/, py_agent/, env/)")
    add("--verbose", action="store_true", help="show every measurement")
    return parser.parse_intermixed_args(arguments)


def _run(options: argparse.Namespace) -> int:
    tolerances = _tolerances(options.tolerance)
    sections = _sections(options.sections)
    if options.epochs < 1:
        raise ConfigError(f"--epochs {options.epochs}: needs 1 or more")
    json_folder = Path(options.json).parent if options.json not in (None, "-") else None
    if json_folder is not None and not json_folder.is_dir():
        raise ConfigError(f"--json {options.json}: there is no folder {json_folder}")
    if options.real_env and options.spec is not None:
        raise ConfigError("--real-env --spec: a spec file has no environment; leave one of them out")
    report = _compare(_sides(options), options, tolerances, sections)
    if options.json == "-":
        print(json.dumps(report.plain(), indent=2))
    elif report.sections:
        show(report, verbose=options.verbose)
    if options.json not in (None, "-"):
        _write(Path(options.json), json.dumps(report.plain(), indent=2) + "\n")
    if report.stopped is not None:
        raise ConfigError(report.stopped)
    return DONE if report.holds else DIFFERENT


def _compare(
    sides: _Sides, options: argparse.Namespace, tolerances: dict[str, float], sections: Sequence[str]
) -> ParityReport:
    # torch and all that needs it are imported here, after the checks that do not.
    from metta_train.envs.build import environment_spec, make_vector_env
    from metta_train.policies.parity.findings import UnusablePolicyError
    from metta_train.policies.parity.spec_file import read_spec
    from metta_train.training.parity.bench import num_envs_for
    from metta_train.training.parity.compare import Comparison, Side, compare_policies

    config = sides.reference
    comparison = Comparison(
        names=_names(options.names),
        trainer=config.trainer,
        clip_range=config.chosen_agent.clip_range,
        device=_device(options.device),
        seed=config.seed,
        epochs=options.epochs,
        tolerances=tolerances,
        sections=sections,
    )
    spec = environment_spec(config.env) if options.spec is None else read_spec(options.spec)

    def real_env() -> VectorEnv:
        envs = num_envs_for(spec.num_agents)
        return make_vector_env(config.env, num_envs=envs, num_workers=0, num_slices=1, seed=config.seed)

    reference = Side(sides.titles[0], _build(config, spec))
    candidate = Side(sides.titles[1], _candidate(sides, options, spec))
    found: list[Section] = []
    stopped: str | None = None
    found_next = compare_policies(reference, candidate, comparison, real_env if options.real_env else None)
    try:
        found.extend(found_next)
    except UnusablePolicyError as error:
        stopped = str(error)
    return ParityReport(sides.titles, spec.name, str(comparison.device), tuple(found), stopped)


def _device(name: str) -> torch.device:
    import torch

    from metta_train.training.resources import choose_device

    device = choose_device(name)
    if device.type == "cpu":
        torch.set_num_threads(1)  # the batches are small: more threads would mostly wait for each other
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def _names(file: Path | None) -> dict[str, str]:
    from metta_train.policies.parity.spec_file import read_yaml_mapping

    names = {} if file is None else read_yaml_mapping(file, "--names")
    for key, value in names.items():
        if not isinstance(value, str):
            raise ConfigError(f"--names {file}: {key}: got {value!r}, needs a name")
    return names


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror or error}") from error


# ----- what to compare


def _sides(options: argparse.Namespace) -> _Sides:
    source = ConfigSource(conf_folder(), extra_folder=_config_dir(options.config_dir))
    agent = [o for o in options.overrides if _group(o) == "agent"]
    py_agent = [o for o in options.overrides if _group(o) == "py_agent"]
    common = [o for o in options.overrides if _group(o) not in ("agent", "py_agent")]
    ways = [bool(agent and py_agent), bool(options.against), options.policy is not None]
    if sum(ways) != 1:
        got = "nothing" if not any(ways) else "more than one"
        raise ConfigError(
            f"{got} to compare with: give agent=... and py_agent=..., or one of them and --against OVERRIDE, or one "
            "of them and --policy MODULE:CLASS"
        )
    if options.option and options.policy is None:
        raise ConfigError("--option belongs to --policy")
    foreign = [o for o in options.against if _group(o) not in ("agent", "py_agent")]
    if foreign:
        raise ConfigError(f"--against {foreign[0]}: only agent and py_agent may differ; put it outside of --against")

    def config(overrides: list[str]) -> RunConfig:
        return run_config(compose(overrides, source))

    if options.policy is not None:
        reference = config([*common, *agent, *py_agent])
        return _Sides(reference, None, (reference.agent_name, options.policy))
    first = [*agent] if agent and py_agent else [*agent, *py_agent]
    if agent and py_agent:
        second = py_agent
    else:
        chooses = any(o in ("agent", "py_agent") for o in (a.partition("=")[0] for a in options.against))
        second = [*options.against] if chooses else [*first, *options.against]
    reference, candidate = config([*common, *first]), config([*common, *second])
    titles = (reference.agent_name, candidate.agent_name)
    if titles[0] == titles[1]:
        titles = (titles[0], " ".join(dict.fromkeys([titles[1], *second])))
    return _Sides(reference, candidate, titles)


def _group(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def _config_dir(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder")
    return None if folder is None else folder.expanduser().resolve()


def _build(config: RunConfig, spec: EnvironmentSpec) -> Policy:
    from metta_train.policies.build import build_policy_from

    return build_policy_from(config.chosen_agent, spec, config.seed)


def _candidate(sides: _Sides, options: argparse.Namespace, spec: EnvironmentSpec) -> Policy:
    if sides.candidate is not None:
        return _build(sides.candidate, spec)
    from metta_train.policies.parity.user_policy import build_user_policy

    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look where it was started
        sys.path.insert(0, here)
    return build_user_policy(options.policy, spec, _options(options.option), sides.reference.seed)


def _options(given: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in given:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise ConfigError(f"--option {word}: needs the form key=value")
        inner = values
        *parents, last = key.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = yaml.safe_load(value)
    return values


def _sections(given: str | None) -> tuple[str, ...]:
    if given is None:
        return SECTIONS
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise ConfigError(f"--sections {name}: needs some of {', '.join(SECTIONS)}{nearest_choice(name, SECTIONS)}")
    return tuple(names)


def _tolerances(given: Sequence[str]) -> dict[str, float]:
    tolerances: dict[str, float] = {}
    for word in given:
        section, _, number = word.rpartition("=")
        if section and section not in SECTIONS:
            raise ConfigError(f"--tolerance {word}: no section {section!r}{nearest_choice(section, SECTIONS)}")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not value >= 0:
            raise ConfigError(f"--tolerance {word}: needs a number of 0 or more")
        tolerances |= {name: value for name in ([section] if section else SECTIONS)}
    return tolerances


if __name__ == "__main__":
    sys.exit(main())
