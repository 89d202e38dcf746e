"""`metta-train`: one run, or with -m a sweep of them."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict

from metta_train.cli.compose import Composition, ConfigSource, compose, located, run_config
from metta_train.cli.config_source import CONFIG_NAME, conf_folder
from metta_train.cli.exit_codes import CRASH, DONE, INTERRUPTED, PREEMPTED, exit_code_of, is_explained
from metta_train.cli.signals import stop_on_signals
from metta_train.cli.sweep import Sweep, plan_sweep
from metta_train.reporting.redaction import redact_message
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError, nearest_choice
from metta_train.training.stopping import StopRequest

PROGRAM = "metta-train"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code (`cli/exit_codes.py`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return _reported(lambda: _dispatch(arguments), arguments)


class JobFailedError(Exception):
    """A job of a sweep failed in another process, where it has said why.

    Attributes:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _dispatch(arguments: list[str]) -> int:
    if "--version" in arguments:
        print(f"{PROGRAM} {version(PROGRAM)}")
        return DONE
    options = _parse(arguments)
    source = _config_source(options)
    if options.shell_completion or options.hydra_help:
        return _hydra_main(arguments, source, _no_job)
    if options.help or options.cfg or options.info:
        compose(options.overrides, source)  # says what is wrong with them in one line
        return _hydra_main(arguments, source, _no_job)
    if options.multirun:
        return _sweep(arguments, plan_sweep(options.overrides, source), source)
    _refuse_hydra_settings(options.overrides)
    return _run(compose(options.overrides, source), [PROGRAM, *arguments])


def _run(composition: Composition, command: Sequence[str]) -> int:
    config = run_config(composition)
    located(config.data_dir, config.run)
    return _train(config, command)


def _train(config: RunConfig, command: Sequence[str]) -> int:
    # OpenMP's threads spin while they wait for each other, unless told otherwise before torch loads it. With another
    # process on the cores each wait then costs a time slice: the default run at 1,430 steps/s instead of 4,770 (two
    # cores, measured side by side); alone on the machine the setting costs about 5 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stop = StopRequest()
    with stop_on_signals(stop):
        from metta_train.assembly import train  # torch and the environments are imported here, after all checks

        epochs = train(config, command, stop)
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
    codes: list[int] = []
    main_process = os.getpid()

    def job(tree: DictConfig) -> int:
        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        overrides = [override for override in settings.overrides.task if not override.startswith("run=")]
        code = _reported(
            lambda: _run(_job_composition(tree, settings.runtime.choices, sweep, folder), [PROGRAM, *overrides]),
            arguments=overrides,
            prefix=f"job {settings.job.num} ({' '.join(overrides)}): ",
        )
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code == PREEMPTED:
            raise JobFailedError(code)  # no further job starts; the same command goes on with the one that was saved
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Hydra made it for a run that was refused
        if os.getpid() != main_process and code != DONE:
            raise JobFailedError(code)
        codes.append(code)
        return code

    try:
        _hydra_main([*arguments, *sweep.overrides], source, job)
    except JobFailedError as error:
        if error.code == PREEMPTED:
            return PREEMPTED
        codes.append(error.code)
    except HydraException as error:  # what only the launcher or the sweeper can know
        raise ConfigError(str(error).splitlines()[0]) from error
    failed = [code for code in codes if code != DONE]
    return failed[0] if failed else DONE


def _job_composition(tree: DictConfig, choices: Mapping[str, object], sweep: Sweep, folder: Path) -> Composition:
    tree = tree.copy()
    with open_dict(tree):
        tree.run = str(folder.relative_to(sweep.data_dir))
        if tree.wandb.group is None:
            tree.wandb.group = sweep.name
    return Composition(tree, dict(choices))


# ----- the edges: arguments, Hydra, and what the user sees of an error


def _hydra_main(arguments: list[str], source: ConfigSource, job: Callable[[DictConfig], object]) -> int:
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
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            options = parser.parse_args(arguments)
    except SystemExit as error:
        said = words.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        known = [name for action in parser._actions for name in action.option_strings]
        wrong = said.rpartition(" ")[2]
        raise ConfigError(f"{said}{nearest_choice(wrong, known)} (see {PROGRAM} --help)") from error
    if options.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun reads a pickle, which is not safe; the same run= continues a run")
    return options


def _config_source(options: argparse.Namespace) -> ConfigSource:
    folders = {"--config-path": options.config_path, "--config-dir": options.config_dir}
    paths = {name: Path(folder).expanduser().resolve() for name, folder in folders.items() if folder is not None}
    for name, path in paths.items():
        if not path.is_dir():
            raise ConfigError(f"{name} {folders[name]}: no such folder")
    return ConfigSource(
        folder=paths.get("--config-path", conf_folder()),
        name=options.config_name or CONFIG_NAME,
        extra_folder=paths.get("--config-dir"),
    )


def _refuse_hydra_settings(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith(("hydra.", "hydra/")) and key != "hydra.searchpath":
            raise ConfigError(
                f"{override}: Hydra's own settings are for sweeps (-m) and have no effect on a single run, "
                "whose folder is <data_dir>/<run>"
            )


def _reported(action: Callable[[], int], arguments: Sequence[str], prefix: str = "") -> int:
    """Run it; an error becomes a line on standard error, and a traceback only when it is not the user's."""
    try:
        return action()
    except KeyboardInterrupt:
        print(redact_message(f"{prefix}interrupted", arguments), file=sys.stderr)
        return INTERRUPTED
    except JobFailedError:
        raise
    except Exception as error:  # the edge of the process: whatever it is, it gets a code
        explained = is_explained(error)
        if not explained or os.environ.get("METTA_TRAIN_TRACEBACK"):
            traceback.print_exc()
        if explained:
            print(redact_message(f"{prefix}{error}", arguments), file=sys.stderr)
        return exit_code_of(error)
