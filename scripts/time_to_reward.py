"""Wall seconds until the reward per agent step passes a threshold: ours beside PuffeRL, the same seeds, in turns.

    python scripts/time_to_reward.py --threshold 0.03 --limit 300 --seeds 1 2 3

The threshold must hold in the mean of a window of epochs. Arms take turns of a few seconds, so that a change of the
machine's load meets all of them; only an arm's own turns count as its time. PuffeRL runs with our coefficients and Adam
(`pufferl`), with its library's defaults (`pufferl-defaults`), and with our optimizer in the place of its own
(`pufferl-our-optimizer`). An arm's own precision stands behind a colon: `pufferl:fp32`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmark_parts.client import ArmProcess
from benchmark_parts.machine import describe_machine
from benchmark_parts.workload import Workload
from metta_train.training.resources import usable_cores

ARMS = ["ours", "pufferl", "pufferl-our-optimizer", "pufferl-defaults"]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", default=[])
    parser.add_argument("--arms", nargs="+", default=ARMS)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of arms that name none")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--threshold", type=float, default=0.03, help="reward per agent step; random play: 0.007")
    parser.add_argument("--window", type=int, default=10, help="epochs")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds per arm and seed")
    parser.add_argument("--turn", type=float, default=5.0, help="seconds")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    results = [race(arguments, seed) for seed in arguments.seeds]
    for seed, result in zip(arguments.seeds, results, strict=True):
        for name, (seconds, steps, reward) in result.items():
            passed = f"{seconds:.0f} s" if reward >= arguments.threshold else f"not within {arguments.limit:.0f} s"
            print(f"seed {seed}  {name:27} {passed:20} {steps:>10,} agent steps, reward {reward:.4f}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"machine": describe_machine(), "results": results}, indent=2) + "\n")


def race(arguments: argparse.Namespace, seed: int) -> dict[str, tuple[float, int, float]]:
    """Seconds, agent steps and the last window's reward of each arm."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        arms = {}
        for name in arguments.arms:
            data_dir = str(Path(folder, name))
            arm, _, precision = name.partition(":")
            workload = Workload(tuple(arguments.overrides), precision or arguments.precision, "auto", data_dir, seed)
            log = Path(folder, f"{name}.log")
            arms[name] = stack.enter_context(ArmProcess(arm, workload, arguments.threads, log))
        seconds, steps = dict.fromkeys(arms, 0.0), dict.fromkeys(arms, 0)
        rewards: dict[str, list[float]] = {name: [] for name in arms}
        racing = list(arms)
        while racing:
            for name in list(racing):
                sample = arms[name].measure("full", arguments.turn, rewards=True)
                seconds[name] += sample.wall
                steps[name] += sample.agent_steps
                rewards[name] += sample.rewards
                window = rewards[name][-arguments.window :]
                passed = len(window) == arguments.window and _mean(window) >= arguments.threshold
                if passed or seconds[name] >= arguments.limit:
                    racing.remove(name)
        return {name: (seconds[name], steps[name], _mean(rewards[name][-arguments.window :])) for name in arms}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
