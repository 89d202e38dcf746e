from __future__ import annotations

from importlib import import_module

import pytest

from metta_train.cli.exit_codes import EXIT_CODES, exit_code_of
from metta_train.specs.config_errors import ConfigError


@pytest.mark.parametrize("name", EXIT_CODES)
def test_every_class_in_the_table_exists(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(import_module(module), kind), BaseException)


def test_codes() -> None:
    assert exit_code_of(ConfigError("x")) == 2
    assert exit_code_of(KeyboardInterrupt()) == 130
    assert exit_code_of(ValueError("a bug of ours")) == 1
    assert exit_code_of(RuntimeError("a bug of ours")) == 1


def test_a_subclass_has_the_code_of_its_base() -> None:
    class NarrowerError(ConfigError):
        pass

    assert exit_code_of(NarrowerError("x")) == 2
