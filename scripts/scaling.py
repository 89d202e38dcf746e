"""Cost per agent step against rows, horizon, tokens, channels, actions and workers, and whether memory stays flat.

    python scripts/scaling.py --out docs/images/scaling          # needs the extra `plots`
    python scripts/scaling.py --flat-epochs 500                  # memory, file descriptors and threads over a run

Every point is a process of its own: our trainer with one size changed, CPU microseconds per agent step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmark_parts.client import ArmProcess
from benchmark_parts.game_with_actions import game_with_actions
from benchmark_parts.workload import Workload

# What is varied, and the overrides of a value, with a folder for files. Batches are one segment per row, minibatches a
# quarter of them. Channels are those that the categories of a feature take in the box.
AXES: dict[str, tuple[tuple[int, ...], Callable[[int, Path], list[str]]]] = {
    "rows": ((24, 96, 384, 1536, 8184), lambda v, _: [f"trainer.num_envs={v // 24}"]),
    "horizon": ((4, 8, 16, 32, 64), lambda v, _: [f"trainer.bptt_horizon={v}"]),
    "tokens": ((48, 96, 192), lambda v, _: [f"env.task.num_tokens={v}"]),
    "channels": ((4, 64, 256), lambda v, _: [f"env.task.features.tag.categories={v}"]),
    "actions": ((5, 20, 50, 99), lambda v, folder: [f"env.config={game_with_actions(v, folder)}"]),
    "workers": ((0, 1, 2), lambda v, _: [f"trainer.num_workers={v}", "trainer.num_envs=16"]),
}


def main() -> None:
    """Parse, measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--largest", type=int, default=8184, help="leave out larger values")
    parser.add_argument("--flat-epochs", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="path without suffix")
    arguments = parser.parse_args()
    if arguments.flat_epochs:
        flat(arguments)
        return
    points = {
        axis: [point(arguments, axis, v) for v in AXES[axis][0] if v <= arguments.largest] for axis in arguments.axes
    }
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(points, indent=2) + "\n")
        draw(points, arguments.out)


def point(arguments: argparse.Namespace, axis: str, value: int) -> dict[str, float]:
    """One size."""
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(tuple(AXES[axis][1](value, Path(folder))), arguments.precision, "auto", folder, 1)
        with ArmProcess("ours", workload, arguments.threads, Path(folder, "arm.log")) as arm:
            arm.measure("full", 0.0)
            sample = arm.measure("full", arguments.seconds)
    result = {"value": value, "cpu_us": 1e6 * sample.cpu / sample.agent_steps, "memory_mib": sample.memory / 2**20}
    print(f"{axis:8} {value:6}: {result['cpu_us']:7.1f} us per agent step, {result['memory_mib']:,.0f} MiB", flush=True)
    return result


def flat(arguments: argparse.Namespace) -> None:
    """Resident memory, file descriptors and threads of the smallest run, ten times along the way."""
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(("trainer=smoke",), arguments.precision, "auto", folder, 1)
        with ArmProcess("ours", workload, arguments.threads, Path(folder, "arm.log")) as arm:
            process = psutil.Process(arm.pid)
            done = 0
            while done < arguments.flat_epochs:
                for _ in range(max(1, arguments.flat_epochs // 10)):
                    memory = arm.measure("full", 0.0).memory
                    done += 1
                files, threads = process.num_fds(), process.num_threads()
                print(f"epoch {done:5}: {memory / 2**20:,.0f} MiB, {files} files, {threads} threads", flush=True)


def draw(points: dict[str, list[dict[str, float]]], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(points), figsize=(3.2 * len(points), 3), layout="constrained", squeeze=False)
    for axis, (name, values) in zip(axes[0], points.items(), strict=True):
        axis.plot([v["value"] for v in values], [v["cpu_us"] for v in values], marker="o")
        axis.set_xlabel(name)
        axis.set_ylim(0, 1.1 * max(v["cpu_us"] for v in values))
        if name in ("rows", "horizon"):
            axis.set_xscale("log", base=2)
        else:
            axis.set_xticks([v["value"] for v in values])
    axes[0][0].set_ylabel("CPU us per agent step")
    figure.savefig(out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
