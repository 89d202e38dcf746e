"""`metta-train`: one run, or with -m a sweep of them."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig

from metta_train.cli.completion import answer, asked_by, check_install
from metta_train.cli.compose import Composition, ConfigSource, compose, located, quoted, run_config
from metta_train.cli.config_source import CONFIG_NAME, conf_folder
from metta_train.cli.dry_run import dry_run
from metta_train.cli.exit_codes import CRASH, DONE, INTERRUPTED, exit_code_of, is_explained
from metta_train.cli.help import show_help
from metta_train.cli.search_path import HYDRA_KEY, split_searchpath
from metta_train.cli.signals import stop_on_signals
from metta_train.cli.sweep import Sweep, plan_sweep, sample_jobs
from metta_train.cli.sweep_job import SweepJob
from metta_train.cli.sweep_report import finish_sweep
from metta_train.cli.sweep_signals import stop_jobs_on_signals
from metta_train.reporting.redaction import redact_message
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError, nearest_choice, nearest_path
from metta_train.training.stopping import StopRequest

PROGRAM = "metta-train"
DRY_RUN = "--dry-run"  # ours alone


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code (`cli/exit_codes.py`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return _reported(lambda: _dispatch(arguments), arguments)


def _dispatch(arguments: list[str]) -> int:
    if "--version" in arguments:
        print(f"{PROGRAM} {version(PROGRAM)}")
        return DONE
    options = _parse(arguments)
    source = _config_source(options)
    if options.help:
        show_help(options.overrides, source)
        return DONE
    if options.shell_completion and (shell := asked_by(options.overrides)):
        point = os.environ.get("COMP_POINT", "")
        print(answer(shell, os.environ.get("COMP_LINE", ""), int(point) if point.isdigit() else None, source))
        return DONE
    if options.shell_completion:
        check_install(options.overrides)
    if options.shell_completion or options.hydra_help:
        return _hydra_main(arguments, source, _no_job)
    if options.cfg or options.info:
        compose(options.overrides, source)  # says what is wrong with them in one line
        return _hydra_main(arguments, source, _no_job)
    if options.dry_run:
        return _dry_run(options, source)
    if options.multirun:
        return _sweep(arguments, plan_sweep(options.overrides, source), source)
    _refuse_hydra_settings(options.overrides)
    return _run(compose(options.overrides, source), [PROGRAM, *arguments])


def _dry_run(options: argparse.Namespace, source: ConfigSource) -> int:
    """Of a sweep so many jobs that every value is in one of them."""
    if not options.multirun:
        _refuse_hydra_settings(options.overrides)
        jobs = [options.overrides]
    else:
        plan_sweep(options.overrides, source)
        jobs = sample_jobs(options.overrides)
    for number, job in enumerate(jobs):
        if options.multirun:
            print(("\n" if number else "") + f"Of the sweep: {' '.join(job)}")
        composition = compose(job, source)
        for warning in composition.warnings:
            print(redact_message(warning, options.overrides), file=sys.stderr)
        dry_run(run_config(composition))
    return DONE


def _run(composition: Composition, command: Sequence[str]) -> int:
    for warning in composition.warnings:
        print(redact_message(warning, command), file=sys.stderr)
    config = run_config(composition)
    located(config.data_dir, config.run)
    return _train(config, command)


def _train(config: RunConfig, command: Sequence[str], *, suggests: bool = True) -> int:
    # OpenMP's threads spin while they wait for each other, unless told otherwise before torch loads it. With another
    # process on the cores each wait then costs a time slice: the default run at 1,430 steps/s instead of 4,770 (two
    # cores, measured side by side); alone on the machine the setting costs about 5 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stop = StopRequest()
    with stop_on_signals(stop):
        from metta_train.assembly.run import train  # torch and the environments are imported here, after all checks

        epochs = train(config, command, stop, suggests=suggests)
        try:
            next(epochs, None)
        except ValueError as error:
            if exit_code_of(error) != CRASH:
                raise
            # Until the first epoch is done, a ValueError is about the configuration: sizes, files, components.
            raise ConfigError(str(error)) from error
        for _ in epochs:
            pass
    return DONE


# ----- sweeps


def _sweep(arguments: list[str], sweep: Sweep, source: ConfigSource) -> int:
    """One run for each combination of values; a failed job does not stop the others."""
    for warning in sweep.warnings:
        print(redact_message(warning, arguments), file=sys.stderr)
    launcher_error = None
    try:
        with nullcontext() if sweep.in_process else stop_jobs_on_signals(sweep):
            _hydra_main([*arguments, *sweep.overrides], source, SweepJob(sweep, source, _train_job))
    except HydraException as error:  # what only the launcher or the sweeper can know
        raise ConfigError(str(error).splitlines()[0]) from error
    except RuntimeError as error:  # a launcher whose process was killed
        launcher_error = (str(error) or type(error).__name__).splitlines()[0]
    return finish_sweep(sweep, arguments, launcher_error)


def _train_job(config: RunConfig, command: Sequence[str]) -> int:
    return _train(config, command, suggests=False)


# ----- the edges: arguments, Hydra, and what the user sees of an error


def _hydra_main(arguments: list[str], source: ConfigSource, job: Callable[[DictConfig], object]) -> int:
    arguments, _ = split_searchpath([argument for argument in arguments if argument != DRY_RUN])
    if own := source.own_folders():
        arguments.append(f"{HYDRA_KEY}=[{','.join(quoted(f'file://{added.folder}') for added in own)}]")
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [*sys.argv[:1], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing and exiting
    try:
        hydra.main(config_path=str(source.folder), config_name=source.name, version_base="1.3")(job)()
    except SystemExit as error:  # --help and --hydra-help
        return error.code if isinstance(error.code, int) else DONE
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error
    return DONE


def _no_job(tree: DictConfig) -> None:
    raise AssertionError("Hydra runs no job when it is asked for information")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.add_argument(DRY_RUN, action="store_true")
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            options = parser.parse_args(arguments)
    except SystemExit as error:
        said = words.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        known = [name for action in parser._actions for name in action.option_strings]
        wrong = said.rpartition(" ")[2]
        if invalid := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", said):
            wrong, known = invalid[1], re.findall(r"[\w-]+", invalid[2])
        raise ConfigError(f"{said}{nearest_choice(wrong, known)} (see {PROGRAM} --help)") from error
    if options.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun reads a pickle, which is not safe; the same run= continues a run")
    return options


def _config_source(options: argparse.Namespace) -> ConfigSource:
    folders = {"--config-path": options.config_path, "--config-dir": options.config_dir}
    paths = {name: Path(folder).expanduser().resolve() for name, folder in folders.items() if folder is not None}
    for name, path in paths.items():
        if not path.is_dir():
            raise ConfigError(f"{name} {folders[name]}: no such folder{nearest_path(folders[name])}")
    return ConfigSource(
        folder=paths.get("--config-path", conf_folder()),
        name=options.config_name or CONFIG_NAME,
        extra_folder=paths.get("--config-dir"),
        searchpath=split_searchpath(options.overrides)[1],
    )


def _refuse_hydra_settings(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith(("hydra.", "hydra/")) and key != HYDRA_KEY:
            raise ConfigError(
                f"{override}: Hydra's own settings are for sweeps (-m) and have no effect on a single run, "
                "whose folder is <data_dir>/<run>"
            )


def _reported(action: Callable[[], int], arguments: Sequence[str]) -> int:
    """Run it; an error becomes a line on standard error, and a traceback only when it is not the user's."""
    try:
        return action()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # the edge of the process: whatever it is, it gets a code
        explained = is_explained(error)
        if not explained or os.environ.get("METTA_TRAIN_TRACEBACK"):
            traceback.print_exc()
        if explained:
            print(redact_message(str(error), arguments), file=sys.stderr)
        return exit_code_of(error)
