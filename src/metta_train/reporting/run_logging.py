"""Python's logging during a run: everything into train.log, the important part on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.reporting.redaction import redact_text
from metta_train.reporting.storage import storage_errors

if TYPE_CHECKING:
    from rich.console import Console

_LOGGER = "metta_train"


@contextmanager
def run_logging(log_file: Path, console: Console, level: int = logging.INFO) -> Iterator[None]:
    """Log to `log_file` (appended) and, from `level` on, to the console for the duration of the block.

    The terminal's lines go through the console of the dashboard and so appear above it. Nothing stays configured
    afterwards: each job of a multirun has its own file.
    """
    with storage_errors("write", log_file):
        file_handler = _LogFile(log_file, encoding="utf-8")
    file_handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal_handler = _terminal_handler(console)
    terminal_handler.setLevel(level)
    logger = logging.getLogger(_LOGGER)
    previous_level, previous_propagate = logger.level, logger.propagate
    logger.setLevel(min(level, logging.INFO))
    logger.propagate = False  # the root logger would print every line a second time, into the dashboard
    for handler in (file_handler, terminal_handler):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file_handler, terminal_handler):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(previous_level)
        logger.propagate = previous_propagate


def _terminal_handler(console: Console) -> logging.Handler:
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    if console.is_terminal:
        handler = RichHandler(
            console=console, show_time=False, show_path=False, markup=False, highlighter=NullHighlighter()
        )
        handler.setFormatter(_RedactingFormatter("%(message)s"))
        return handler
    # Where nobody watches, rich would break long lines at 80 columns.
    handler = logging.StreamHandler(console.file)
    handler.setFormatter(_RedactingFormatter("%(levelname)s %(message)s"))
    return handler


class _LogFile(logging.FileHandler):
    """A log that cannot be written is no reason to stop, nor to fill the terminal with tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name in logging
        pass

    def close(self) -> None:
        with suppress(OSError):  # lines that found no room are tried once more here, and lost
            super().close()


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))
