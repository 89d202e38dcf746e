"""What all tests share: an environment without the user's own settings, and reproducible generated cases."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A loaded machine must not fail a test, and a failure must come again on the next run.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

FOREIGN = ("DATA_DIR", "HYDRA_", "METTA_", "WANDB_")


@pytest.fixture(autouse=True)
def environment_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
