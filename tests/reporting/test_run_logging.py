from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from metta_train.reporting.run_logging import run_logging
from metta_train.reporting.storage import StorageError

logger = logging.getLogger("metta_train.somewhere")


def test_messages_reach_the_file_and_the_terminal_without_secrets(tmp_path: Path) -> None:
    for terminal in (True, False):
        text = io.StringIO()
        log = tmp_path / f"{terminal}.log"
        with run_logging(log, Console(file=text, width=40, force_terminal=terminal, color_system=None)):
            logger.warning("cannot reach https://me:hunter22@host [red] " + "x" * 50)
            logger.debug("a detail")
        assert "WARNING" in text.getvalue()
        assert "[red]" in text.getvalue()
        assert "a detail" not in text.getvalue()
        assert "hunter22" not in text.getvalue() + log.read_text()
        assert "WARNING metta_train.somewhere: cannot reach https://<redacted>@host [red]" in log.read_text()


def test_lines_are_not_broken_where_nobody_watches(tmp_path: Path) -> None:
    text = io.StringIO()
    with run_logging(tmp_path / "log", Console(file=text, width=40, force_terminal=False)):
        logger.warning("x" * 200)
    assert text.getvalue() == "WARNING " + "x" * 200 + "\n"


def test_each_run_has_its_own_file_and_nothing_stays_configured(tmp_path: Path) -> None:
    package = logging.getLogger("metta_train")
    before = (list(package.handlers), package.level, package.propagate)
    for name in ("a", "b"):
        with run_logging(tmp_path / name, Console(file=io.StringIO())):
            logger.info("in %s", name)
    assert (package.handlers, package.level, package.propagate) == before
    assert [(tmp_path / name).read_text().count("in ") for name in ("a", "b")] == [1, 1]


def test_a_log_that_cannot_be_opened_is_a_typed_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="could not write"),
        run_logging(tmp_path / "missing" / "log", Console(file=io.StringIO())),
    ):
        pass
