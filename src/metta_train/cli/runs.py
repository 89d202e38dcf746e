"""`metta-runs`: see, compare, check, plot and remove runs."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence

from metta_train.cli.arguments import HelpText, Parser, add_data_dir, add_version, data_dir_of, reported
from metta_train.cli.exit_codes import DONE, NO_CHECKPOINT
from metta_train.cli.import_legacy import add_options as add_import_options
from metta_train.cli.import_legacy import import_legacy
from metta_train.cli.runs_plot import add_options as add_plot_options
from metta_train.cli.runs_plot import plot
from metta_train.reporting.curves import curve, read_epochs, wanted_metrics
from metta_train.reporting.metric_names import REWARD, TOTAL_TIME
from metta_train.reporting.results import glyphs_of, plain, print_json, print_results, results_console, shown_path
from metta_train.reporting.run_tables import (
    RunDetails,
    checkpoint_list,
    comparison,
    run_details,
    run_list,
    score_notes,
    size,
    verification,
)
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.run_summary import CheckpointInfo
from metta_train.training.checkpoint_listing import best_checkpoint, list_checkpoints, newest_checkpoint
from metta_train.training.config_changes import config_changes
from metta_train.training.run_catalog import (
    find_matching,
    find_reference,
    find_run,
    find_runs,
    is_locked,
    read_invocations,
    read_run_config,
    remove_run,
    summarize,
)
from metta_train.training.run_lock import RunLockedError
from metta_train.training.run_paths import RunPaths

DAMAGED = 1

DESCRIPTION = "See, compare, check, plot and remove runs. Without a command: list."
EPILOG = """\
examples:
  metta-runs                                   all runs, the youngest first
  metta-runs show mine                         one run on a page, with its curve
  metta-runs compare mine other --metric losses/entropy
  metta-runs checkpoints mine                  mine:latest, mine:best and mine:<agent step> name them
  metta-runs verify mine                       read and hash every checkpoint
  metta-runs plot 'sweep/*' --out figure.pdf   seeds of one setting become one line with its interval
  metta-runs rm old-1 old-2 --yes
  metta-runs import-legacy model.pt experiment=original --run old --trust-pickle
  metta-runs --json list | jq '.[].reward'

Results go to stdout, everything else to stderr. Exit code: 0 done, 1 some checkpoints are damaged, 2 bad usage,
3 no good checkpoint, 4 the run is being trained, 5 disk or permissions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return reported(lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="metta-runs",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpText,
        allow_abbrev=False,
    )
    add_version(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_data_dir(parser)
    parser.set_defaults(command=_list, runs=[])
    common = Parser(add_help=False)  # the same options behind the command
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    add_data_dir(common, default=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common], help=text, description=text, allow_abbrev=False)
        command.set_defaults(command=function)
        return command

    listed = add("list", _list, "all runs: state, steps, reward, speed, age, checkpoints")
    listed.add_argument("runs", nargs="*", metavar="RUN", help="only these; patterns like 'sweep/*' work")
    shown = add("show", _show, "one run on a page")
    shown.add_argument("run", metavar="RUN")
    compared = add("compare", _compare, "two runs: where their configurations differ, and their curves")
    compared.add_argument("runs", nargs=2, metavar="RUN")
    compared.add_argument("--metric", action="append", metavar="NAME", help=f"default {REWARD}; may be repeated")
    saved = add("checkpoints", _checkpoints, "the checkpoints of a run")
    saved.add_argument("run", metavar="RUN[:checkpoint]")
    verified = add("verify", _verify, "read and hash every checkpoint of a run")
    verified.add_argument("run", metavar="RUN[:checkpoint]")
    removed = add("rm", _remove, "remove runs with everything in their folders, after asking")
    removed.add_argument("runs", nargs="+", metavar="RUN")
    removed.add_argument("--yes", "-y", action="store_true", help="do not ask")
    add_plot_options(
        add("plot", plot, "PNG and SVG of metrics over steps or time; runs that differ by seed become one line")
    )
    add_import_options(
        add("import-legacy", import_legacy, "make a run of the weights in a .pt file of the original system")
    )
    return parser


# ----- commands


def _list(options: argparse.Namespace) -> int:
    data_dir = data_dir_of(options)
    found = find_matching(data_dir, options.runs) if options.runs else find_runs(data_dir)
    runs = sorted((summarize(paths) for paths in found), key=lambda run: run.age)
    if options.json:
        print_json(runs)
    elif not runs:
        print(f"no runs in {data_dir}; metta-train makes one", file=sys.stderr)
    else:
        console = results_console()
        print_results(console, [run_list(runs, console.width, sparks=glyphs_of(console).braille)])
    return DONE


def _show(options: argparse.Namespace) -> int:
    details, config = _details(find_run(data_dir_of(options), options.run))
    if options.json:
        print_json({**_plain_details(details), "config": config})
    else:
        console = results_console()
        print_results(console, run_details(details, console.width, glyphs_of(console)))
    return DONE


def _compare(options: argparse.Namespace) -> int:
    both = [find_run(data_dir_of(options), name) for name in options.runs]
    (first, first_config), (second, second_config) = (_details(paths) for paths in both)
    epochs = [read_epochs(paths.metrics) for paths in both]
    names = wanted_metrics(options.metric, epochs)
    curves = [(name, tuple(curve(of_run, name) for of_run in epochs)) for name in names]
    ignored = ("run", "data_dir")
    changes = [
        (change.key, change.old, change.new)
        for change in config_changes(first_config, second_config)
        if change.key not in ignored
    ]
    if options.json:
        print_json(
            {
                "runs": [first.summary, second.summary],
                "differences": [{"key": key, "values": [old, new]} for key, old, new in changes],
                "metrics": [
                    {
                        "metric": name,
                        "last_tenth": [c.last_tenth for c in of_runs],
                        "curves": [c.plain() for c in of_runs],
                    }
                    for name, of_runs in curves
                ],
            }
        )
        return DONE
    console = results_console()
    print_results(console, comparison([first, second], changes, curves, console.width, glyphs_of(console)))
    return DONE


def _checkpoints(options: argparse.Namespace) -> int:
    paths, saved = _named_checkpoints(options)
    best = best_checkpoint([info for info in list_checkpoints(paths.checkpoints) if info.problem is None])
    newest = newest_checkpoint(paths.checkpoints)
    if options.json:
        print_json(saved)
    elif not saved:
        print(f"run {paths.run!r} has no checkpoint yet", file=sys.stderr)
    else:
        table = checkpoint_list(
            saved,
            latest=None if newest is None else newest.name,
            best=None if best is None else best.name,
            now=time.time(),
        )
        print_results(results_console(), [table, *score_notes(saved)])
    return DONE


def _verify(options: argparse.Namespace) -> int:
    paths, saved = _named_checkpoints(options)
    from metta_train.training.checkpoint_files import DamagedCheckpointError, IncompatibleCheckpointError
    from metta_train.training.checkpoints import verify

    results: list[tuple[str, str | None]] = []
    for number, info in enumerate(saved, start=1):
        if sys.stderr.isatty():
            print(f"\r{number} of {len(saved)}: {info.name} ({size(info.size)})", end="", file=sys.stderr, flush=True)
        try:
            verify(info.path)
        except (DamagedCheckpointError, IncompatibleCheckpointError) as error:
            results.append((info.name, str(error).removeprefix(f"{info.path}: ")))
        else:
            results.append((info.name, None))
    if saved and sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    good = sum(problem is None for _, problem in results)
    if options.json:
        print_json([{"name": name, "good": problem is None, "problem": problem} for name, problem in results])
    elif results:
        print_results(results_console(), [verification(results)])
    if good == 0:
        print(f"run {paths.run!r} has no good checkpoint", file=sys.stderr)
        return NO_CHECKPOINT
    return DONE if good == len(results) else DAMAGED


def _remove(options: argparse.Namespace) -> int:
    found = find_matching(data_dir_of(options), options.runs)
    for paths in found:
        if is_locked(paths):
            raise RunLockedError(
                f"run {paths.run!r} is being trained by a process; stop it first. Nothing was removed."
            )
    if not options.yes and not _confirmed(found):
        print("nothing was removed", file=sys.stderr)
        return DAMAGED
    removed = []
    for paths in found:
        remove_run(paths)
        removed.append({"run": paths.run, "folder": str(paths.folder)})
        if not options.json:
            print(f"removed {paths.run}")
    if options.json:
        print_json(removed)
    return DONE


# ----- what the commands are made of


def _named_checkpoints(options: argparse.Namespace) -> tuple[RunPaths, tuple[CheckpointInfo, ...]]:
    """All checkpoints of a run, those set aside included, or the one that `RUN:checkpoint` names."""
    reference = find_reference(data_dir_of(options), options.run)
    if reference.selector is None:
        return reference.paths, list_checkpoints(reference.paths.checkpoints, set_aside=True)
    return reference.paths, (reference.checkpoint(),)


def _details(paths: RunPaths) -> tuple[RunDetails, dict[str, object]]:
    config = read_run_config(paths)
    epochs = read_epochs(paths.metrics)
    rewards = curve(epochs, REWARD)
    saved = list_checkpoints(paths.checkpoints)
    best = best_checkpoint(saved)
    invocations = read_invocations(paths)
    last = invocations[-1] if invocations else None
    seed, device = config.get("seed"), config.get("device")
    details = RunDetails(
        summary=summarize(paths),
        checkpoints=saved,
        best=None if best is None else best.name,
        seed=seed if isinstance(seed, int) else None,
        device=device if isinstance(device, str) else None,
        starts=len(invocations),
        command=shlex.join(last.argv) if last else None,
        versions=last.versions if last else {},
        seconds=epochs[-1].get(TOTAL_TIME) if epochs else None,
        best_reward=float(rewards.y.max()) if len(rewards.y) else None,
        curve=rewards,
        latest=epochs[-1] if epochs else {},
    )
    return details, config


def _plain_details(details: RunDetails) -> dict[str, object]:
    return {
        **plain(details.summary),
        "saved": plain(details.checkpoints),
        "best": details.best,
        "seed": details.seed,
        "starts": details.starts,
        "command": details.command,
        "versions": details.versions,
        "seconds": details.seconds,
        "best_reward": details.best_reward,
        "reward_last_tenth": details.curve.last_tenth,
        "latest": details.latest,
    }


def _confirmed(found: Sequence[RunPaths]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("rm asks before it removes anything, and nobody is there to answer; --yes removes at once")
    for paths in found:
        run = summarize(paths)
        holds = f"{run.agent_step:,} agent steps, {run.checkpoints} checkpoints"
        print(f"{shown_path(paths.folder)}: {run.condition}, {holds}", file=sys.stderr)
    print(f"remove {'this run' if len(found) == 1 else f'these {len(found)} runs'}? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(main())
