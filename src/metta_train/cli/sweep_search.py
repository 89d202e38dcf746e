"""`metta-sweep`: search the values that train best, with Optuna or with PufferLib's Protein."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import secrets
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from pydantic import ValidationError

from metta_train.cli.arguments import Parser, add_data_dir, add_version, data_dir_of, reported
from metta_train.cli.compose import compose, located, quoted, run_config
from metta_train.cli.config_source import ConfigSource, conf_folder
from metta_train.cli.exit_codes import DONE, PREEMPTED
from metta_train.cli.signals import BATCH_SIGNALS
from metta_train.cli.sweep_report import shown_path
from metta_train.cli.sweep_search_report import report, trial_line, write_trials_csv
from metta_train.reporting.results import plain, print_json, print_results, results_console
from metta_train.reporting.storage import replace_file, storage_errors
from metta_train.specs.config_errors import ConfigError, describe, json_schema, nearest_choice
from metta_train.sweeps.config import SweepConfig, Value, Values
from metta_train.sweeps.search import Search, SearchFolder
from metta_train.sweeps.search_method import SearchMethod
from metta_train.sweeps.trial import Trial, TrialLog
from metta_train.training.run_folder import config_changes

SPACES = "sweep"  # the folder in conf/
# May differ when a search goes on: how long it is and how it is weighed, not what is compared.
CHANGEABLE = ("trials", "optuna", "protein")
_MAX_BYTES = 1 << 20
_PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*")
_NO_TEXTS = ("true", "false", "null", "inf", "nan")  # to Hydra

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


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    config: SweepConfig
    name: str
    data_dir: Path
    config_dir: Path | None
    jobs: int
    trials: int  # in all; 0 only shows

    @property
    def folder(self) -> SearchFolder:
        return SearchFolder(self.data_dir / self.name)


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_version(parser)
    add("words", nargs="*", metavar="SPACE, key=value", help="a name in conf/sweep/ or a file; overrides of all trials")
    add("--trials", type=int, metavar="N", help="in all; default what the space says; 0 only shows")
    add("--jobs", type=int, default=1, metavar="N", help="trials that run at a time; default 1")
    add("--method", choices=("optuna", "protein"), help="default what the space says")
    add("--seed", type=int, metavar="N", help="of the search; default what the space says")
    add("--json", action="store_true", help="print the result as JSON")
    add("--config-dir", type=Path, metavar="FOLDER", help="a folder with groups of your own (sweep/, env/, ...)")
    add_data_dir(parser)
    return parser.parse_intermixed_args(arguments)


def _run(options: argparse.Namespace) -> int:
    request = _request(options)
    if request.trials == 0 and not request.folder.settings.is_file():
        raise ConfigError(f"run={request.name}: there is no search of this name in {request.data_dir} to show")
    log = TrialLog(request.folder.trials)
    stopped = False
    if request.trials > 0:
        look_every = _checked(request)
        with request.folder.locked():
            _adopt(request)
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
    search = Search(
        request.config.model_copy(update={"trials": request.trials}),
        method,
        request.folder,
        log,
        lambda trial: _process(request, trial),
        look_every=look_every,
        told=lambda trial: print(trial_line(trial), file=sys.stderr, flush=True),
    )
    with _stop_on_signals(search.stop):
        search.run(request.jobs)
    if search.gives_up:
        print("every trial fails, so no other was begun", file=sys.stderr)
    return search.stopping


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
    of_one = {word.partition("=")[0]: word for word in [*_overrides(request, best), *where]}
    of_seeds = {key: word for key, word in of_one.items() if key != "seed"}
    return {
        "the best again": shlex.join(["metta-train", *of_one.values(), f"run={request.name}-best"]),
        "with other seeds": shlex.join(
            ["metta-train", "-m", "seed=11,12,13", *of_seeds.values(), f"run={request.name}-seeds"]
        ),
    }


def _rank(config: SweepConfig, trial: Trial) -> tuple[int, float, int]:
    if trial.score is None:
        return (2, 0.0, trial.number)
    score = -trial.score if config.goal == "maximize" else trial.score
    return (0 if trial.state == "done" else 1, score, trial.number)


# ----- what is asked for


def _request(options: argparse.Namespace) -> Request:
    given = [word for word in options.words if "=" in word]
    spaces = [word for word in options.words if "=" not in word]
    if len(spaces) > 1:
        raise ConfigError(f"{' '.join(spaces)}: one space at a time")
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: needs 1 or more")
    if options.trials is not None and options.trials < 0:
        raise ConfigError(f"--trials {options.trials}: needs 0 or more")
    config_dir = None if options.config_dir is None else options.config_dir.expanduser().resolve()
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {options.config_dir}: no such folder")
    names = [word.partition("=")[2] for word in given if word.startswith("run=")]
    folders = [word.partition("=")[2] for word in given if word.startswith("data_dir=")]
    overrides = [word for word in given if not word.startswith(("run=", "data_dir="))]
    for override in overrides:
        if override.lstrip("+~").startswith(("hydra.", "hydra/")) or override.startswith("restart="):
            raise ConfigError(f"{override}: has no place in a search; its trials are processes of their own")
    data_dir = (Path(folders[-1]) if folders else data_dir_of(options)).expanduser().resolve()
    name = names[-1] if names else f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = located(data_dir, name)
    located(data_dir, f"{name}/trial-0000")  # of which there is room for fewer parts
    saved = _saved(SearchFolder(folder))
    if spaces:
        values = _space(spaces[0], ConfigSource(conf_folder(), extra_folder=config_dir))
    elif saved is not None:
        values = dict(saved)
    else:
        known = ", ".join(_known_spaces(ConfigSource(conf_folder(), extra_folder=config_dir)))
        raise ConfigError(f"which space? metta-sweep SPACE run=NAME; there are {known}, or a file of your own")
    for key, value in (("method", options.method), ("seed", options.seed)):
        if value is not None:
            values[key] = value
    if spaces or overrides:
        values["overrides"] = [*(_overrides_in(values) if spaces else ()), *overrides]
    config = _validated(values, spaces[0] if spaces else str(SearchFolder(folder).settings))
    trials = config.trials if options.trials is None else options.trials
    return Request(config, name, data_dir, config_dir, options.jobs, trials)


def _overrides_in(values: dict[str, Any]) -> list[Any]:
    given = values.get("overrides", [])
    return given if isinstance(given, list) else [given]


def _known_spaces(source: ConfigSource) -> list[str]:
    return sorted({file.stem for folder in _space_folders(source) if folder.is_dir() for file in folder.glob("*.yaml")})


def _space_folders(source: ConfigSource) -> list[Path]:
    return [folder / SPACES for folder in (*(own.folder for own in source.own_folders()), source.folder)]


def _space(name: str, source: ConfigSource) -> dict[str, Any]:
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name).expanduser(), name)
    for folder in _space_folders(source):
        if (folder / f"{name}.yaml").is_file() and "/" not in name:
            return _read(folder / f"{name}.yaml", name)
    known = _known_spaces(source)
    raise ConfigError(f"{name}: needs one of {', '.join(known)}, or a .yaml file{nearest_choice(name, known)}")


def _read(file: Path, name: str) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"{name}: no such file")
    if file.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{name}: larger than {_MAX_BYTES} bytes; it is no space")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: holds no mapping")
    return values


def _validated(values: dict[str, Any], name: str) -> SweepConfig:
    try:
        return SweepConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {describe(error, values, json_schema(SweepConfig))}") from error


def _checked(request: Request) -> int:
    """Compose what the trials will be; how many agent steps lie between two looks at one.

    Raises:
        ConfigError: no combination of the space's values composes.
    """
    if request.config.method == "optuna" and importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "method optuna: the package is missing; pip install 'metta-train[search]', or --method protein"
        )
    source = ConfigSource(conf_folder(), extra_folder=request.config_dir)
    problems: list[ConfigError] = []
    combinations = request.config.samples()
    for values in combinations:
        try:
            run_config(compose([*request.config.overrides, *_as_overrides(values), f"run={request.name}"], source))
        except ConfigError as error:
            problems.append(error)
    if len(problems) == len(combinations):
        raise problems[0]
    if problems:
        print(f"not every combination of the space will train: {problems[0]}", file=sys.stderr)
    overrides = [*request.config.overrides, *_as_overrides(request.config.centers), f"run={request.name}"]
    total = run_config(compose(overrides, source)).trainer.total_timesteps
    return max(1, total // request.config.optuna.looks)


# ----- the folder of a search


def _saved(folder: SearchFolder) -> dict[str, Any] | None:
    if not folder.settings.is_file():
        return None
    return _read(folder.settings, str(folder.settings))


def _adopt(request: Request) -> None:
    """Write the settings of a new search; those of one that goes on may not differ in what is compared."""
    new = request.config.model_dump(mode="json")
    saved = _saved(request.folder)
    if saved is not None:
        old = _validated(saved, str(request.folder.settings)).model_dump(mode="json")
        changes = [c for c in config_changes(old, new) if c.key.partition(".")[0] not in CHANGEABLE]
        if changes:
            listed = "; ".join(map(str, changes))
            raise ConfigError(
                f"run={request.name}: this search was begun with other settings ({listed}); "
                "give the old ones or none to go on, or another run name"
            )
    elif any(request.folder.path.glob("trial-*")):
        raise ConfigError(f"run={request.name}: the folder holds trials without {request.folder.settings.name}")
    with storage_errors("write", request.folder.settings):
        replace_file(request.folder.settings, yaml.safe_dump(new, sort_keys=False, allow_unicode=True).encode())


# ----- trials


def _process(request: Request, trial: Trial) -> list[str]:
    options = [] if request.config_dir is None else ["--config-dir", str(request.config_dir)]
    return [
        sys.executable,
        "-m",
        "metta_train.cli.sweep_trial",
        str(os.getpid()),
        *options,
        *_overrides(request, trial),
        f"run={request.name}/{trial.name}",
        f"data_dir={quoted(str(request.data_dir))}",
        *([] if any(o.startswith("wandb.group=") for o in request.config.overrides) else [_group(request)]),
    ]


def _group(request: Request) -> str:
    return f"wandb.group={quoted(request.name)}"


def _overrides(request: Request, trial: Trial) -> list[str]:
    return [*request.config.overrides, *_as_overrides(trial.values)]


def _as_overrides(values: Values) -> list[str]:
    return [f"{key}={_written(value)}" for key, value in values.items()]


def _written(value: Value) -> str:
    """A value on a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if _PLAIN_TEXT.fullmatch(value) and value.lower() not in _NO_TEXTS else quoted(value)
    return f"{value}"


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

    before = {number: signal.getsignal(number) for number in (*BATCH_SIGNALS, signal.SIGINT)}
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
