"""`metta-eval`: how good are checkpoints? A fixed, seeded set of episodes, and honest statistics of it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.cli.arguments import HelpText, Parser, add_data_dir, add_version, data_dir_of, reported
from metta_train.cli.checkpoint_policy import load_checkpoint, policy_of
from metta_train.cli.compose import ConfigSource, compose, run_config
from metta_train.cli.config_source import conf_folder
from metta_train.cli.env_overrides import with_env_overrides
from metta_train.cli.exit_codes import CRASH, DONE, exit_code_of
from metta_train.cli.suites import load_suite, refuse_other_keys
from metta_train.reporting.evaluation_report import Evaluation, report
from metta_train.reporting.results import plain, print_json, print_results, results_console
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.training.run_catalog import RunReference, find_references, read_run_config

if TYPE_CHECKING:
    import torch

    from metta_train.policies.policy import Policy
    from metta_train.training.checkpoints import Checkpoint

EPISODES, SEED = 32, 0
RANDOM = "random"
REFRESH = 0.2  # seconds

DESCRIPTION = """\
Play a fixed, seeded set of whole episodes and print mean, median, interquartile mean (IQM) and 95 % bootstrap intervals
of the reward per episode and agent, and the environment's own statistics. Several runs play on the same maps."""
EPILOG = """\
examples:
  metta-eval mine                             the newest good checkpoint on the run's own environment
  metta-eval mine:best --episodes 100         also mine:latest and mine:<agent step>
  metta-eval mine other 'sweep/*:best'        several runs in one table
  metta-eval mine --random                    beside it the random policy, on the same maps
  metta-eval mine env.max_steps=1000          the run's environment, changed
  metta-eval mine env=arena env.task.rooms=1  another environment, composed as metta-train does
  metta-eval mine --suite arena               a set of environments from conf/eval/
  metta-eval --random env=arena               the random policy alone
  metta-eval mine --json | jq .evaluations[0].score.iqm.value

The same command gives the same numbers. Exit code: 0 done, 2 bad usage or a checkpoint that does not fit the
environment, 3 no usable checkpoint, 6 env workers failed."""


@dataclass(frozen=True, slots=True)
class Player:
    """A checkpoint that plays."""

    reference: RunReference
    checkpoint: Checkpoint

    @property
    def agent_step(self) -> int:
        """Of the checkpoint."""
        return self.checkpoint.state.progress.agent_step

    @property
    def name(self) -> str:
        """`run:<agent step>`, which names the checkpoint on every command line."""
        return f"{self.reference.paths.run}:{self.agent_step}"


@dataclass(frozen=True, slots=True)
class Task:
    """One environment, and who plays on it: checkpoints, and the random policy as None."""

    name: str
    entries: tuple[tuple[Player | None, RunConfig], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy on one environment, ready to play."""

    environment: str
    by: str
    config: RunConfig
    policy: Policy
    device: torch.device


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return reported(lambda: _run(_parse(arguments)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="metta-eval",
        usage="metta-eval RUN[:checkpoint] ... [env=NAME] [env.key=value ...] [option ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpText,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_version(parser)
    add(
        "words",
        nargs="*",
        metavar="RUN[:checkpoint], env.key=value",
        help="runs, patterns like 'sweep/*', and what to change in the env",
    )
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
    references = find_references(data_dir_of(options), runs)
    configs = [read_run_config(reference.paths) for reference in references]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in metta-train
    wanted = {None: overrides} if suite is None else dict(suite.environments)
    composed = {name: _configs(references, configs, of_task, source) for name, of_task in wanted.items()}
    players = [Player(reference, load_checkpoint(reference)) for reference in references]
    tasks = []
    for name, of_task in composed.items():
        tasks += _tasks(name, players, of_task, with_random=options.random)
    # All are built before the first one plays: a mistake is told at once.
    trials = [_trial(task.name, player, config, options) for task in tasks for player, config in task.entries]
    evaluations = [_evaluate(trial, episodes, seed, options) for trial in trials]
    if options.json:
        told = {
            "suite": options.suite,
            "greedy": options.greedy,
            "runs": [
                {
                    "run": player.reference.paths.run,
                    "checkpoint": player.checkpoint.path,
                    "agent_step": player.agent_step,
                }
                for player in players
            ],
            "evaluations": [plain(evaluation.plain()) for evaluation in evaluations],
        }
        print_json(told)
    else:
        how = "greedy" if options.greedy else "actions sampled"
        console = results_console()
        print_results(console, report(evaluations, how, console.width, suite=options.suite))
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
    if not runs and not options.random:
        raise ConfigError("which run? metta-eval RUN, or --random for the random policy alone (metta-runs lists runs)")
    if options.suite is not None and overrides:
        raise ConfigError(f"--suite {options.suite} {overrides[0]}: a suite has its own environments; leave one out")


def _config_dir(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder")
    return None if folder is None else folder.expanduser().resolve()


def _configs(
    references: Sequence[RunReference],
    saved: Sequence[Mapping[str, object]],
    overrides: Sequence[str],
    source: ConfigSource,
) -> tuple[RunConfig, ...]:
    """Of each run with these overrides of its environment; without runs the one that the overrides compose."""
    if not references:
        return (run_config(compose(overrides, source)),)
    return tuple(
        with_env_overrides(config, overrides, source, reference.paths.run)
        for reference, config in zip(references, saved, strict=True)
    )


def _tasks(
    name: str | None, players: Sequence[Player], configs: Sequence[RunConfig], *, with_random: bool
) -> list[Task]:
    """One for each different environment: without a suite or `env=` every run plays on its own.

    Args:
        name: of the environment in a suite; None takes the environment's own.
        players: may be none.
        configs: of each player; one without players.
        with_random: the random policy plays on every environment too.
    """
    groups: list[list[int]] = []
    for number, config in enumerate(configs):
        same = [group for group in groups if configs[group[0]].env == config.env]
        if same:
            same[0].append(number)
        else:
            groups.append([number])
    if len(groups) > 1:
        print("these runs have different environments; env=NAME or --suite NAME compares them on one", file=sys.stderr)
    names = [name or _environment_name(configs[group[0]]) for group in groups]
    tasks = []
    for title, group in zip(names, groups, strict=True):
        entries: list[tuple[Player | None, RunConfig]] = [(players[n], configs[n]) for n in group if players]
        if with_random:
            entries.append((None, configs[group[0]]))
        runs = ", ".join(players[number].reference.paths.run for number in group if players)
        tasks.append(Task(title if names.count(title) == 1 else f"{title} of {runs}", tuple(entries)))
    return tasks


def _environment_name(config: RunConfig) -> str:
    from metta_train.envs.build import environment_spec

    try:
        return environment_spec(config.env).name
    except (ValueError, RuntimeError) as error:
        if exit_code_of(error) != CRASH:
            raise
        raise ConfigError(str(error)) from error  # the game's files


def _trial(name: str, player: Player | None, config: RunConfig, options: argparse.Namespace) -> Trial:
    from metta_train.envs.build import environment_spec
    from metta_train.policies.uniform import UniformPolicy
    from metta_train.training.resources import choose_device

    try:
        device = choose_device(options.device or config.device)
        spec = environment_spec(config.env)
        policy = UniformPolicy(spec) if player is None else policy_of(config, spec, player.checkpoint)
    except (ValueError, RuntimeError) as error:
        if exit_code_of(error) != CRASH:
            raise
        who = "" if player is None else f"{player.name} on {name}: "
        raise ConfigError(f"{who}{error}") from error  # the device, the game's files, weights that do not fit
    return Trial(name, RANDOM if player is None else player.name, config, policy, device)


def _evaluate(trial: Trial, episodes: int, seed: int, options: argparse.Namespace) -> Evaluation:
    from metta_train.training.evaluation import play_fixed_set

    started = time.perf_counter()
    with _progress(f"{trial.environment}: {trial.by}", episodes) as told:
        played = play_fixed_set(
            trial.policy.to(trial.device),
            trial.config.env,
            num_episodes=episodes,
            seed=seed,
            greedy=options.greedy,
            device=trial.device,
            num_workers=options.workers,
            told=told,
        )
    return Evaluation(trial.environment, trial.by, seed, played, time.perf_counter() - started)


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
