"""`metta-sweep`: search the values that train best, with Optuna or with PufferLib's Protein."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from metta_train.cli.arguments import HelpText, Parser, add_data_dir, add_version, data_dir_of, reported
from metta_train.cli.compose import quoted
from metta_train.cli.exit_codes import DONE, PREEMPTED
from metta_train.cli.sweep_request import Request, adopt_settings, look_interval, request_of
from metta_train.cli.sweep_search_report import report, trial_line, write_trials_csv
from metta_train.envs.child_process import STOP_SIGNALS
from metta_train.reporting.results import plain, print_json, print_results, results_console, shown_path
from metta_train.specs.config_errors import ConfigError
from metta_train.sweeps.config import SweepConfig
from metta_train.sweeps.devices import visible_devices
from metta_train.sweeps.search import Search
from metta_train.sweeps.search_method import SearchMethod
from metta_train.sweeps.trial import Trial, TrialLog

DESCRIPTION = """\
Search the values that train best. Every trial is a run of metta-train; the same command goes on with a search that was
stopped, and repeats nothing."""
EPILOG = """\
examples:
  metta-sweep ppo run=tune                        the space conf/sweep/ppo.yaml, 20 trials, one at a time
  metta-sweep ppo run=tune --jobs 4 --trials 100  four at a time; 100 in all, those that are done included
  metta-sweep ppo run=tune trainer=gpu env=arena  overrides of every trial, as on metta-train's command line
  metta-sweep my.yaml run=mine --method protein   a file of your own; reward weighed against time
  metta-sweep run=tune                            goes on with tune as it was begun
  metta-sweep run=tune --trials 0                 only shows what tune has found

optuna stops trials that are worse than the others; protein proposes along the front of reward and time. A search lies
in <data_dir>/<run>/: the trials' runs, trials.jsonl, sweep.csv, and Optuna's study.db.

Results go to stdout, progress to stderr. Exit code: 0 done, 2 bad usage, 4 the search runs already, 5 disk or
permissions, 75 stopped and saved, 130 interrupted; if every trial failed, the code of the last."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return reported(lambda: _run(_parse(arguments)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="metta-sweep",
        usage="metta-sweep [SPACE] [run=NAME] [key=value ...] [option ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpText,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_version(parser)
    add("words", nargs="*", metavar="SPACE, key=value", help="a name in conf/sweep/ or a file; overrides of all trials")
    add("--trials", type=int, metavar="N", help="in all; default what the space says; 0 only shows")
    add(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="trials that run at a time, on several GPUs one each; default 1",
    )
    add("--method", choices=("optuna", "protein"), help="default what the space says")
    add("--seed", type=int, metavar="N", help="of the search; default what the space says")
    add("--json", action="store_true", help="print the result as JSON")
    add("--config-dir", type=Path, metavar="FOLDER", help="a folder with groups of your own (sweep/, env/, ...)")
    add_data_dir(parser)
    return parser.parse_intermixed_args(arguments)


def _run(options: argparse.Namespace) -> int:
    request = request_of(options)
    if request.trials == 0 and not request.folder.settings.is_file():
        raise ConfigError(f"run={request.name}: there is no search of this name in {request.data_dir} to show")
    log = TrialLog(request.folder.trials)
    stopped = False
    if request.trials > 0:
        look_every = look_interval(request)
        with request.folder.locked():
            adopt_settings(request)
            stopped = _search(request, log, look_every)
    trials = list(log.read().values())
    _show(request, trials, as_json=options.json)
    if stopped:
        return PREEMPTED
    failed = [trial for trial in trials if trial.state == "failed"]
    return failed[-1].code or 1 if failed and not any(trial.state == "done" for trial in trials) else DONE


def _search(request: Request, log: TrialLog, look_every: int) -> bool:
    """Whether it was stopped before its end."""
    trials = log.read()
    if sum(trial.ended for trial in trials.values()) >= request.trials:
        return False
    method = _method(request, log)
    devices = _devices(request)
    if len(devices) > 1:
        print(f"{request.jobs} trials at a time, each on one of {len(devices)} GPUs", file=sys.stderr)
    search = Search(
        request.config.model_copy(update={"trials": request.trials}),
        method,
        request.folder,
        log,
        lambda trial: _process(request, trial),
        look_every=look_every,
        told=lambda trial: print(
            trial_line(trial, is_best=_is_best(request.config, trial, search.trials)), file=sys.stderr, flush=True
        ),
        devices=devices,
    )
    with _stop_on_signals(search.stop):
        search.run(request.jobs)
    if search.gives_up:
        print("every trial fails, so no other was begun", file=sys.stderr)
    return search.stopping


def _devices(request: Request) -> tuple[str, ...]:
    """GPUs to share out; none when the trials run one after the other, or are told which device to use."""
    chosen = "device" in request.config.parameters or any(o.startswith("device=") for o in request.config.overrides)
    return () if request.jobs == 1 or chosen else visible_devices(os.environ)


def _method(request: Request, log: TrialLog) -> SearchMethod:
    trials = log.read()
    if request.config.method == "protein":
        from metta_train.sweeps.protein_search import ProteinSearch

        return ProteinSearch(request.config, trials=trials)
    from metta_train.sweeps.optuna_search import OptunaSearch

    return OptunaSearch(
        request.config,
        name=request.name,
        folder=request.folder.path,
        trials=trials,
        parallel=request.jobs > 1,
    )


def _show(request: Request, trials: Sequence[Trial], *, as_json: bool) -> None:
    table = write_trials_csv(request.folder.path, request.name, request.config, trials) if trials else None
    done = [trial for trial in trials if trial.state == "done"]
    best = min(done, key=lambda trial: _rank(request.config, trial), default=None)
    commands = {} if best is None else _again(request, best)
    if as_json:
        print_json(
            {
                "run": request.name,
                "folder": request.folder.path,
                "method": request.config.method,
                "metric": request.config.metric,
                "goal": request.config.goal,
                "best": None if best is None else plain(best),
                "commands": commands,
                "trials": [plain(trial) for trial in trials],
            }
        )
        return
    console = results_console()
    ranked = sorted(trials, key=lambda trial: _rank(request.config, trial))
    print_results(console, report(request.name, request.config, ranked, console.width))
    if table is not None:
        print(shown_path(table))
    for purpose, command in commands.items():
        print(f"{purpose}:\n  {command}")


def _again(request: Request, best: Trial) -> dict[str, str]:
    """Commands by purpose. The best of many noisy scores is partly luck; more seeds tell how much."""
    usual = data_dir_of(argparse.Namespace(data_dir=None)).resolve()
    where = [] if request.data_dir == usual else [f"data_dir={request.data_dir}"]
    of_one = {word.partition("=")[0]: word for word in [*request.overrides_of(best), *where]}
    of_seeds = {key: word for key, word in of_one.items() if key != "seed"}
    return {
        "the best again": shlex.join(["metta-train", *of_one.values(), f"run={request.name}-best"]),
        "with other seeds": shlex.join(
            ["metta-train", "-m", "seed=11,12,13", *of_seeds.values(), f"run={request.name}-seeds"]
        ),
    }


def _is_best(config: SweepConfig, trial: Trial, trials: Mapping[int, Trial]) -> bool:
    done = [other for other in trials.values() if other.state == "done"]
    return len(done) > 1 and min(done, key=lambda other: _rank(config, other)).number == trial.number


def _rank(config: SweepConfig, trial: Trial) -> tuple[int, float, int]:
    if trial.score is None:
        return (2, 0.0, trial.number)
    score = -trial.score if config.goal == "maximize" else trial.score
    return (0 if trial.state == "done" else 1, score, trial.number)


# ----- trials


def _process(request: Request, trial: Trial) -> list[str]:
    options = [] if request.config_dir is None else ["--config-dir", str(request.config_dir)]
    return [
        sys.executable,
        "-m",
        "metta_train.cli.sweep_trial",
        str(os.getpid()),
        *options,
        *request.overrides_of(trial),
        f"run={request.name}/{trial.name}",
        f"data_dir={quoted(str(request.data_dir))}",
        *([] if any(o.startswith("wandb.group=") for o in request.config.overrides) else [_group(request)]),
    ]


def _group(request: Request) -> str:
    return f"wandb.group={quoted(request.name)}"


@contextmanager
def _stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """TERM, USR1, HUP and the first Ctrl-C: the trials save and end. A second Ctrl-C leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        stop()
        print("\nthe trials save and end; Ctrl-C again leaves at once", file=sys.stderr)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


if __name__ == "__main__":
    sys.exit(main())
