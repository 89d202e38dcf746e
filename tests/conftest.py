"""What all tests share: an environment without the user's own settings, and reproducible generated cases."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A loaded machine must not fail a test, and a failure must come again on the next run.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# Two test processes on two cores: a second thread of one would only wait for the other. Read by the libraries that are
# loaded after this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts `command &` with SIGINT ignored, nohup with SIGHUP, and programs that the tests start would inherit it.
# What is caught here is not ignored there.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)

FOREIGN = ("DATA_DIR", "HYDRA_", "METTA_", "WANDB_")


@pytest.fixture(autouse=True)
def environment_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)


@pytest.fixture(params=["pretended", "real"])
def cuda(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a CUDA device: a pretended one, and then the machine's, where it has one."""
    import torch

    from tests.fakes.pretended_cuda import DEVICE, pretended_cuda

    if request.param == "pretended":
        with pretended_cuda():
            yield DEVICE
    elif torch.cuda.is_available():
        yield DEVICE
    else:
        pytest.skip("needs a GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pages of the docs take minutes each: first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")
