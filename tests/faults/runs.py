"""Drives the real command line in processes of their own, and looks at what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metta_train.training.checkpoints import checkpoint_folders, load

REPOSITORY = Path(__file__).resolve().parents[2]
MARK = "METTA_TRAIN_FAULT_TEST"  # an environment variable that every process of one run carries

# Small and busy: several segments per row, endings inside segments, first episodes cut, checkpoints every other epoch.
FORAGE = [
    "agent=fast",
    "trainer=smoke",
    "wandb=off",
    "seed=3",
    "trainer.bptt_horizon=8",
    "trainer.num_envs=2",
    "trainer.batch_size=768",
    "trainer.total_timesteps=6144",
    "env.max_steps=37",
]
# The shortest run with everything in it: a start takes a second.
SMALL_FORAGE = [
    "agent=fast",
    "trainer=smoke",
    "wandb=off",
    "seed=3",
    "trainer.num_envs=1",
    "trainer.bptt_horizon=8",
    "trainer.batch_size=192",
    "trainer.total_timesteps=1536",
    "trainer.checkpoint.checkpoint_interval=2",
    "env.max_steps=13",
]
CARTPOLE = [
    "agent=mlp",
    "env=gymnasium",
    "env.id=CartPole-v1",
    "wandb=off",
    "seed=5",
    "trainer=smoke",
    "trainer.num_envs=4",
    "trainer.bptt_horizon=16",
    "trainer.batch_size=128",
    "trainer.minibatch_size=64",
    "trainer.total_timesteps=3072",
    "trainer.checkpoint.checkpoint_interval=3",
]
FAULTY = "tests.fakes.gymnasium_envs:Fake-v0"

# Of every process that a test has waited for: seconds from its last signal, else from its start, to its end.
ENDINGS: list[float] = []


class Patience:
    """Seconds that a test waits, counted while it runs: a machine that is frozen for a minute spends none of them."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self, pause: float = 0.02) -> bool:
        """Sleep for a moment; false once there is nothing left."""
        started = time.monotonic()
        time.sleep(pause)
        self._left -= min(time.monotonic() - started, pause + 0.5)
        return self._left > 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    code: int  # negative: killed by that signal
    out: str
    err: str
    seconds: float


class Run:
    """One `metta-train` process; its output goes to files, so that nothing blocks."""

    def __init__(
        self,
        data_dir: Path,
        arguments: Sequence[str],
        *,
        environ: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_"))},
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
            "DATA_DIR": str(data_dir),
            "OMP_NUM_THREADS": "1",
            MARK: self.mark,
            **(environ or {}),
        }
        program = [sys.executable, "-m", *(wrapper or ["metta_train"])]
        self._out, self._err = data_dir / f"out-{self.mark}", data_dir / f"err-{self.mark}"
        self._started = self._hit = time.monotonic()
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*program, *arguments],
                env=environment,
                cwd=data_dir,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
            )

    def wait(self, timeout: float = 240.0) -> Ended:
        """Until it ends; a process that does not is killed and is a failure of the test."""
        patience = Patience(timeout)
        while (code := self.process.poll()) is None:
            if not patience.wait():
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"still running after {timeout} s:\n{self.err()[-3000:]}")
        ended = time.monotonic()
        ENDINGS.append(ended - self._hit)
        seconds = ended - self._started
        return Ended(code, self._out.read_text(), self.err(), seconds)

    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the trainer alone."""
        self._hit = time.monotonic()
        self.process.send_signal(number)

    def kill_every_process(self, number: signal.Signals) -> None:
        """Send a signal to the trainer and its children, to these first, as a batch system may."""
        self._hit = time.monotonic()
        for pid in sorted(self.processes(), key=lambda pid: pid == self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120.0) -> None:
        """Until the condition holds; the process must not end before."""
        patience = Patience(timeout)
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.err()[-3000:]}"
            assert patience.wait(0.01), f"did not happen within {timeout} s:\n{self.err()[-3000:]}"

    def processes(self) -> list[int]:
        """All living processes that this run has started, the trainer included."""
        return [pid for pid in living() if marked(pid, self.mark)]

    def assert_nothing_left(self, seconds: float = 30.0) -> None:
        """No process of this run lives on."""
        patience = Patience(seconds)
        while left := self.processes():
            assert patience.wait(), f"processes left behind: {left}"


def living() -> list[int]:
    """Processes that are not zombies."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.append(int(folder.name))
    return found


def assert_gone(pids: Sequence[int], seconds: float = 30.0) -> None:
    """None of these processes lives on."""
    patience = Patience(seconds)
    while left := set(pids) & set(living() if pids else ()):
        assert patience.wait(), f"processes left behind: {sorted(left)}"


def marked(pid: int, mark: str) -> bool:
    """Whether the process carries the mark in its environment."""
    try:
        return f"{MARK}={mark}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def train(data_dir: Path, *arguments: str, environ: dict[str, str] | None = None, timeout: float = 240.0) -> Ended:
    """Start a run and wait for its end."""
    return Run(data_dir, arguments, environ=environ).wait(timeout)


def folder(data_dir: Path, run: str) -> Path:
    return data_dir / run


def newest(data_dir: Path, run: str) -> Path:
    """The newest checkpoint, which must verify."""
    path = checkpoint_folders(data_dir / run / "checkpoints")[-1]
    load(path)
    return path


def weights(data_dir: Path, run: str) -> bytes:
    """Model and optimizer files of the newest checkpoint."""
    path = newest(data_dir, run)
    return (path / "model.safetensors").read_bytes() + (path / "optimizer.safetensors").read_bytes()


def metrics(data_dir: Path, run: str) -> list[dict[str, float]]:
    """All epochs, without what depends on the clock."""
    clocks = ("timing_", "overview/sps", "metric/total_time", "metric/train_time")
    lines = (data_dir / run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(clocks)} for line in lines]


def steps(data_dir: Path, run: str) -> list[int]:
    """Agent steps of the saved checkpoints."""
    return [int(path.name.removeprefix("step-")) for path in checkpoint_folders(data_dir / run / "checkpoints")]


def lines(data_dir: Path, run: str) -> int:
    """Epochs in the metrics file."""
    path = data_dir / run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_same_run(data_dir: Path, run: str, reference: str) -> None:
    """Bit-equal weights, optimizer and metrics, and no file left half-written."""
    assert weights(data_dir, run) == weights(data_dir, reference)
    assert metrics(data_dir, run) == metrics(data_dir, reference)
    left = [path.name for path in (data_dir / run).rglob("*") if ".tmp" in path.name or path.name.startswith(".trash")]
    assert not left, f"unfinished files: {left}"
