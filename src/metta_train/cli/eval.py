"""`metta-eval`: how good is a checkpoint? A fixed, seeded set of episodes, and honest statistics of it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.cli.arguments import Parser, add_data_dir, add_version, data_dir_of, reported
from metta_train.cli.compose import ConfigSource, compose, run_config
from metta_train.cli.config_source import conf_folder
from metta_train.cli.env_overrides import with_env_overrides
from metta_train.cli.exit_codes import CRASH, DONE, exit_code_of
from metta_train.cli.suites import load_suite, refuse_other_keys
from metta_train.reporting.evaluation_report import Evaluation, report
from metta_train.reporting.results import plain, print_json, print_results, results_console
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.training.checkpoint_listing import LATEST, list_checkpoints
from metta_train.training.run_catalog import RunReference, find_reference, read_run_config

if TYPE_CHECKING:
    from metta_train.policies.policy import Policy
    from metta_train.specs.environment_spec import EnvironmentSpec
    from metta_train.training.checkpoints import Checkpoint

EPISODES, SEED = 32, 0
RANDOM = "random"
REFRESH = 0.2  # seconds

DESCRIPTION = """\
Play a fixed, seeded set of whole episodes and print mean, median, interquartile mean (IQM) and 95 % bootstrap intervals
of the reward per episode and agent, and the environment's own statistics."""
EPILOG = """\
examples:
  metta-eval mine                            the newest good checkpoint on the run's own environment
  metta-eval mine:best --episodes 100        also mine:latest and mine:<agent step>
  metta-eval mine --random                   beside it the random policy, on the same maps
  metta-eval mine env.max_steps=1000         the run's environment, changed
  metta-eval mine env=arena env.task.rooms=1 another environment, composed as metta-train does
  metta-eval mine --suite arena              a set of environments from conf/eval/
  metta-eval --random env=arena              the random policy alone
  metta-eval mine --json | jq .evaluations[0].score.iqm.value

The same command gives the same numbers. Exit code: 0 done, 2 bad usage or a checkpoint that does not fit the
environment, 3 no usable checkpoint, 6 env workers failed."""


@dataclass(frozen=True, slots=True)
class Task:
    """One environment to play on."""

    name: str | None  # in a suite; None takes the environment's own
    config: RunConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return reported(lambda: _run(_parse(arguments)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="metta-eval",
        usage="metta-eval RUN[:checkpoint] [env=NAME] [env.key=value ...] [option ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_version(parser)
    add("words", nargs="*", metavar="RUN[:checkpoint], env.key=value", help="the run, and what to change in its env")
    add("--episodes", type=int, metavar="N", help=f"default {EPISODES}, or what the suite says")
    add("--seed", type=int, metavar="N", help=f"of maps and sampling; default {SEED}, or what the suite says")
    add("--greedy", action="store_true", help="the most probable action instead of a sampled one")
    add("--random", action="store_true", help="the random policy on the same maps, as a baseline")
    add("--suite", metavar="NAME", help="environments from conf/eval/NAME.yaml")
    add("--device", metavar="DEVICE", help="cpu, cuda, cuda:<number> or auto; default what the run says")
    add("--workers", type=int, default=0, metavar="N", help="processes that step envs; the numbers stay the same")
    add("--json", action="store_true", help="print the result as JSON, with every episode")
    add("--config-dir", type=Path, metavar="FOLDER", help="a folder with groups of your own (env/, eval/)")
    add_data_dir(parser)
    return parser.parse_intermixed_args(arguments)


def _run(options: argparse.Namespace) -> int:
    overrides = [word for word in options.words if "=" in word]
    runs = [word for word in options.words if "=" not in word]
    source = ConfigSource(conf_folder(), extra_folder=_config_dir(options.config_dir))
    _check_options(options, runs, overrides)
    suite = None if options.suite is None else load_suite(options.suite, source)
    episodes = options.episodes or (EPISODES if suite is None else suite.episodes)
    default_seed = SEED if suite is None else suite.seed
    seed = default_seed if options.seed is None else options.seed
    reference = find_reference(data_dir_of(options), runs[0]) if runs else None
    wanted = {None: overrides} if suite is None else dict(suite.environments)
    tasks = [Task(name, _config(reference, of_task, source)) for name, of_task in wanted.items()]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in metta-train
    checkpoint = None if reference is None else _load(reference)
    evaluations: list[Evaluation] = []
    for task in tasks:
        for baseline in (False, True) if options.random else (False,):
            if not baseline and checkpoint is None:
                continue
            played_by = None if baseline else checkpoint
            evaluations.append(_evaluate(task, played_by, reference, episodes, seed, options))
    how = "greedy" if options.greedy else "actions sampled"
    if options.json:
        told = {
            "run": None if reference is None else reference.paths.run,
            "checkpoint": None if checkpoint is None else checkpoint.path,
            "agent_step": None if checkpoint is None else checkpoint.state.progress.agent_step,
            "greedy": options.greedy,
            "suite": options.suite,
            "evaluations": [plain(evaluation.plain()) for evaluation in evaluations],
        }
        print_json(told)
    else:
        console = results_console()
        print_results(console, report(evaluations, how, console.width))
    return DONE


def _check_options(options: argparse.Namespace, runs: Sequence[str], overrides: Sequence[str]) -> None:
    for name, value, least in (
        ("--episodes", options.episodes, 1),
        ("--seed", options.seed, 0),
        ("--workers", options.workers, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} {value}: needs {least} or more")
    refuse_other_keys(overrides)
    if len(runs) > 1:
        raise ConfigError(f"{' '.join(runs)}: one run at a time")
    if not runs and not options.random:
        raise ConfigError("which run? metta-eval RUN, or --random for the random policy alone (metta-runs lists runs)")
    if options.suite is not None and overrides:
        raise ConfigError(f"--suite {options.suite} {overrides[0]}: a suite has its own environments; leave one out")


def _config_dir(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder")
    return None if folder is None else folder.expanduser().resolve()


def _config(reference: RunReference | None, overrides: Sequence[str], source: ConfigSource) -> RunConfig:
    if reference is None:
        return run_config(compose(overrides, source))
    return with_env_overrides(read_run_config(reference.paths), overrides, source, reference.paths.run)


def _load(reference: RunReference) -> Checkpoint:
    """The checkpoint that is meant. `latest` is the newest good one: a damaged one is passed over with a warning."""
    from metta_train.training.checkpoints import DamagedCheckpointError, NoUsableCheckpointError, load

    chosen = reference.checkpoint()
    if reference.selector not in (None, LATEST):
        return load(chosen.path)
    for info in reversed(list_checkpoints(reference.paths.checkpoints)):
        try:
            return load(info.path)
        except DamagedCheckpointError as error:
            print(f"passed over, damaged: {error}", file=sys.stderr)
    raise NoUsableCheckpointError(f"run {reference.paths.run!r} has no good checkpoint")


def _evaluate(
    task: Task,
    checkpoint: Checkpoint | None,
    reference: RunReference | None,
    episodes: int,
    seed: int,
    options: argparse.Namespace,
) -> Evaluation:
    from metta_train.envs.build import environment_spec
    from metta_train.policies.uniform import UniformPolicy
    from metta_train.training.evaluation import play_fixed_set
    from metta_train.training.resources import choose_device

    config = task.config
    try:
        device = choose_device(options.device or config.device)
        spec = environment_spec(config.env)
        policy = UniformPolicy(spec) if checkpoint is None else _policy(config, spec, checkpoint)
    except (ValueError, RuntimeError) as error:
        if exit_code_of(error) != CRASH:
            raise
        raise ConfigError(str(error)) from error  # the device, the game's files, weights that do not fit
    by = RANDOM
    if checkpoint is not None and reference is not None:
        by = f"{reference.paths.run}:{checkpoint.state.progress.agent_step}"
    name = task.name or spec.name
    started = time.perf_counter()
    with _progress(f"{name}: {by}", episodes) as told:
        played = play_fixed_set(
            policy.to(device),
            config.env,
            num_episodes=episodes,
            seed=seed,
            greedy=options.greedy,
            device=device,
            num_workers=options.workers,
            told=told,
        )
    return Evaluation(name, by, seed, played, time.perf_counter() - started)


def _policy(config: RunConfig, spec: EnvironmentSpec, checkpoint: Checkpoint) -> Policy:
    from metta_train.policies.build import build_policy_from
    from metta_train.training.training_state import restore_weights

    policy = build_policy_from(config.chosen_agent, spec, config.seed)
    restore_weights(policy, checkpoint)
    return policy


@contextmanager
def _progress(label: str, episodes: int) -> Iterator[Callable[[int], None]]:
    """A line on stderr that stays in place, where someone watches."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    steps, shown = 0, 0.0

    def told(done: int) -> None:
        nonlocal steps, shown
        steps += 1
        now = time.monotonic()
        if now - shown >= REFRESH:
            shown = now
            print(f"\r\x1b[K{label}: step {steps}, {done} of {episodes} episodes", end="", file=sys.stderr, flush=True)

    try:
        yield told
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
