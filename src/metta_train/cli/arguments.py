"""What the sibling commands of `metta-train` share: options, errors in one line, exit codes, quiet pipes."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from metta_train.cli.exit_codes import BAD_USAGE, CRASH, DONE, INTERRUPTED, exit_code_of
from metta_train.reporting.redaction import redact_text
from metta_train.specs.config_errors import ConfigError, nearest_choice


class Parser(argparse.ArgumentParser):
    """Raises ConfigError with the nearest word where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        invalid = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        unknown = re.fullmatch(r"unrecognized arguments: (\S+).*", message)
        hint = ""
        if invalid:
            hint = nearest_choice(invalid[1], re.findall(r"[\w-]+", invalid[2]))
        elif unknown:
            hint = nearest_choice(unknown[1], sorted(self._option_string_actions))
        raise ConfigError(f"{message}{hint} (see {self.prog} --help)")


def add_data_dir(parser: argparse.ArgumentParser, *, default: object = None) -> None:
    """`--data-dir`; `data_dir_of` reads it."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=default,
        metavar="FOLDER",
        help="where runs lie; default $DATA_DIR, else ./train_dir",
    )


def add_version(parser: argparse.ArgumentParser) -> None:
    """`--version`."""
    parser.add_argument("--version", action="version", version=f"{parser.prog} {version('metta-train')}")


def data_dir_of(options: argparse.Namespace) -> Path:
    """The folder of the runs, as metta-train chooses it."""
    chosen: Path | None = options.data_dir
    return Path(os.environ.get("DATA_DIR") or "train_dir") if chosen is None else chosen.expanduser()


def reported(action: Callable[[], int]) -> int:
    """Run it; an error becomes one line on standard error, and a traceback when it is not the user's."""
    try:
        code = action()
        sys.stdout.flush()  # where a closed pipe shows
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, e.g. head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return DONE
    except Exception as error:  # the edge of the process: whatever it is, it gets a code
        code = exit_code_of(error)
        if code == CRASH or os.environ.get("METTA_TRAIN_TRACEBACK"):
            traceback.print_exc()
        if code != CRASH:
            text = redact_text(str(error))
            print(" ".join(text.split()) if code == BAD_USAGE else text, file=sys.stderr)
        return code
