"""Our end of an arm's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from benchmark_parts.workload import Workload

SCRIPTS = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Sample:
    """One stretch of work."""

    agent_steps: int
    wall: float
    cpu: float  # seconds of the process and its workers, all threads
    memory: int  # bytes resident at its end, workers included
    rewards: tuple[float, ...]  # per epoch, if they were asked for

    @property
    def rate(self) -> float:
        return self.agent_steps / self.wall


class ArmProcess:
    """An arm that waits between requests, without using a core."""

    def __init__(self, name: str, workload: Workload, threads: int, log: Path) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")]),
        }
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmark_parts.serve_arm", name, workload.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        ready = self._answer()
        self.start_seconds: float = ready["ready"]
        self.parameters: int = ready["parameters"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def measure(self, work: str, seconds: float, *, rewards: bool = False) -> Sample:
        requests: IO[str] | None = self._process.stdin
        assert requests is not None
        print(json.dumps({"work": work, "seconds": seconds, "rewards": rewards}), file=requests, flush=True)
        answer = self._answer()
        return Sample(answer["agent_steps"], answer["wall"], answer["cpu"], answer["memory"], tuple(answer["rewards"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"an arm ended:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)
