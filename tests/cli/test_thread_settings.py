from __future__ import annotations

import os

from metta_train.cli.thread_settings import SPIN_COUNT, set_thread_defaults


def test_the_users_own_settings_stay(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    set_thread_defaults()
    assert os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    set_thread_defaults()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    set_thread_defaults()
    assert "GOMP_SPINCOUNT" not in os.environ
