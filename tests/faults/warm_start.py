"""Runs of the command line that start in milliseconds: forked from a process that has imported everything.

Thousands of starts cost hours of imports otherwise. A run is `metta_train.cli.train.main` in a process of its own; the
quick tests start `python -m metta_train` itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from tests.faults.runs import CARTPOLE, SMALL_FORAGE, assert_gone

REPOSITORY = Path(__file__).resolve().parents[2]


class WarmStart:
    """The process that runs are forked from."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_"))},
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
            "DATA_DIR": str(data_dir),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.warm_start"],
            cwd=data_dir,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> WarmStart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def run(
        self, arguments: Sequence[str], *, kill_after: float | None = None, fault: str = "", log: str = "warm.log"
    ) -> tuple[int, float]:
        """One run; killed with SIGKILL after some seconds if it lives so long. Exit code and seconds.

        `fault` is one of with_fault.py.
        """
        pid = self._ask({"arguments": list(arguments), "fault": fault, "log": str(self.data_dir / log)})
        started = time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            children = [child.pid for child in psutil.Process(pid).children(recursive=True)]
            os.kill(pid, signal.SIGKILL)  # a zombie at least: the parent reaps only when asked
            assert_gone(children)
        code = self._ask({"wait": pid})
        return code, time.monotonic() - started

    def _ask(self, request: dict[str, object]) -> int:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())


def serve() -> None:
    """Fork and wait as asked, until the end of the input."""
    from metta_train.cli.train import main
    from tests.faults.with_fault import install

    for arguments in (CARTPOLE, SMALL_FORAGE):
        _load(arguments)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 1
            try:
                if request["fault"]:
                    install(request["fault"])
                code = main(request["arguments"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)


def _load(arguments: Sequence[str]) -> None:
    """Import and compile what such runs load on their way; it takes longer than they do. No gradients: no threads."""
    import torch

    import metta_train.assembly.run  # noqa: F401
    from metta_train import build_policy, load_config
    from metta_train.envs.build import environment_spec, make_environment
    from metta_train.training.optimizers import build_optimizer

    config = load_config(arguments)
    spec = environment_spec(config.env)
    make_environment(config.env).close()
    policy = build_policy(config, spec, seed=0)
    build_optimizer(config.trainer.optimizer, policy)
    rows = spec.num_agents
    observations = torch.zeros((rows, *spec.observation.shape), dtype=getattr(torch, str(spec.observation.dtype)))
    with torch.inference_mode():
        policy.act(
            observations,
            policy.initial_state(rows),
            torch.ones(rows, dtype=torch.bool),
            torch.Generator().manual_seed(0),
        )


if __name__ == "__main__":
    serve()
