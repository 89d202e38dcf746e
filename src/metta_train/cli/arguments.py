"""What the sibling commands of `metta-train` share: options, errors in one line, exit codes, quiet pipes."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from metta_train.cli.exit_codes import BAD_USAGE, CRASH, DONE, INTERRUPTED, exit_code_of
from metta_train.reporting.redaction import redact_text
from metta_train.specs.config_errors import ConfigError, nearest_choice

_EXAMPLE = re.compile(r"(\s+\S.*?\s{2,})(\S.*)")
_LEAST_MEANING = 30  # columns
_BELOW = " " * 6


class HelpText(argparse.HelpFormatter):
    """Paragraphs are broken at the terminal's width; indented lines, the examples, keep their columns."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_indented, block in itertools.groupby(text.splitlines(), key=lambda line: line[:1] in ("", " ")):
            if is_indented:
                for line in _joined(block):
                    lines += _broken(line, width)
            else:
                lines += _wrapped(" ".join(block), width)
        return "\n".join(lines)


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


def _joined(lines: Iterable[str]) -> list[str]:
    """Indented lines; what goes on below the meaning of an example belongs to it."""
    joined: list[str] = []
    begins = 0  # column of the text that a line can go on with
    for line in lines:
        space = len(line) - len(line.lstrip())
        if joined and line and space == begins:
            joined[-1] += f" {line.lstrip()}"
            continue
        joined.append(line)
        columns = _EXAMPLE.fullmatch(line)
        begins = len(columns[1]) if columns is not None else space if space >= len(_BELOW) else 0
    return joined


def _broken(line: str, width: int) -> list[str]:
    """An example and what it does, from its column on where there is room, else below it; commands stay whole."""
    columns = _EXAMPLE.fullmatch(line)
    if columns is not None and len(columns[1]) + _LEAST_MEANING <= width:
        return _wrapped(columns[2], width, columns[1], " " * len(columns[1]))
    if columns is not None and len(line) > width:
        return [columns[1].rstrip(), *_wrapped(columns[2], width, _BELOW, _BELOW)]
    if line.startswith(_BELOW):
        space = line[: len(line) - len(line.lstrip())]
        return _wrapped(line.lstrip(), width, space, space)
    return [line]


def _wrapped(text: str, width: int, first: str = "", further: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


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
