"""What reliability costs: our loop as `metta-train` runs it beside the same loop without any of it, epoch by epoch.

    python scripts/reliability_cost.py
    python scripts/reliability_cost.py trainer.num_workers=2 --groups 3

with       the run as it is: a copy of everything after each epoch, the log of actions, marks of the environments,
           the search for numbers that are not finite, signals held back, looks at the stop request, status.json,
           supervised workers, and a checkpoint every `checkpoint_interval` epochs
without    the same training without these (benchmark_parts/unprotected.py)
control    `without` a second time: what the difference of two equal loops looks like on this machine

All three live in one process and take turns after every epoch, in all orders. They train on the same numbers, which is
checked: whatever differs is the cost. A group is `checkpoint_interval` epochs of each, so it holds one checkpoint.
Wall time is what counts; CPU time of the trainer's process is steadier beside other work, and leaves out the disk.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

from benchmark_parts.machine import describe_machine
from benchmark_parts.unprotected import train_unprotected
from benchmark_parts.workload import ENDLESS
from metta_train import load_config
from metta_train.assembly import run_reports
from metta_train.assembly.design import design_of
from metta_train.assembly.run import train
from metta_train.envs.episode_log import EpisodeLog
from metta_train.envs.logged_vector import LoggedVectorEnv
from metta_train.training import update
from metta_train.training.checkpoint_writer import CheckpointWriter
from metta_train.training.run_folder import RunFolder
from metta_train.training.training_state import TrainingState

WARM_UP = 3  # epochs of each before the first group
# What can be timed by itself, as a second way to the same number.
PARTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "copies": (TrainingState, ("keep",)),
    "marks": (LoggedVectorEnv, ("mark",)),
    "log of actions": (EpisodeLog, ("acted", "ended")),
    "search for NaN": (update, ("find_nonfinite",)),
    "status.json": (RunFolder, ("write_status",)),
    "checkpoint": (CheckpointWriter, ("write",)),
}


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", default=[], help="of metta-train, e.g. trainer.num_workers=2")
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the order in which the three start and take turns")
    parser.add_argument("--out", type=Path, default=None, help="path without suffix")
    arguments = parser.parse_args()
    result = measure(arguments.overrides, arguments.groups, arguments.seed)
    table = markdown(result)
    print(table)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        arguments.out.with_suffix(".md").write_text(table + "\n")


def measure(overrides: list[str], groups: int, seed: int) -> dict[str, Any]:
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(_output_into(Path(folder, "output.log")))
        config = load_config(
            [
                "wandb=off",
                "trainer.simulation.evaluate_interval=0",
                *overrides,
                f"data_dir={folder}",
                f"trainer.total_timesteps={ENDLESS}",
            ]
        )
        interval = config.trainer.checkpoint.checkpoint_interval
        parts: defaultdict[str, float] = defaultdict(float)
        for name, (owner, verbs) in PARTS.items():
            for verb in verbs:
                stack.enter_context(patch.object(owner, verb, _timed(getattr(owner, verb), parts, name)))
        ways = {"with": train, "without": train_unprotected, "control": train_unprotected}
        # While one takes its turn the others wait: half a second of a run are one and a half here.
        stack.enter_context(patch.object(run_reports, "STATUS_SECONDS", len(ways) * run_reports.STATUS_SECONDS))
        arms = {name: way(config.model_copy(update={"run": name})) for name, way in ways.items()}
        for arm in arms.values():
            stack.callback(arm.close)
        permutations = list(itertools.permutations(arms))
        random.Random(seed).shuffle(permutations)  # whoever starts first has its memory elsewhere
        orders = itertools.cycle(permutations)
        clocks = {"wall": perf_counter, "cpu": process_time}
        seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in arms} for clock in clocks}
        for epoch in range(WARM_UP + groups * interval):
            if epoch == WARM_UP:
                parts.clear()
            done = {}
            for name in next(orders):
                started = {clock: now() for clock, now in clocks.items()}
                record = next(arms[name])
                for clock, now in clocks.items():
                    seconds[clock][name].append(now() - started[clock])
                done[name] = (record.rollout, record.update)
            assert done["with"] == done["without"] == done["control"], "the arms train on different numbers"
        plan = design_of(config).plan
    starts = range(WARM_UP, WARM_UP + groups * interval, interval)
    sums = {
        clock: {name: [sum(values[start : start + interval]) for start in starts] for name, values in arms.items()}
        for clock, arms in seconds.items()
    }
    wall = {name: values[WARM_UP:] for name, values in seconds["wall"].items()}
    return {
        "machine": machine,
        "overrides": overrides,
        "plan": plan.describe(),
        "groups": groups,
        "interval": interval,
        "steps_per_second": plan.batch_size * interval / statistics.median(sums["wall"]["without"]),
        "cost": {clock: _shares(of["with"], of["without"]) for clock, of in sums.items()},
        "control": {clock: _shares(of["control"], of["without"]) for clock, of in sums.items()},
        "parts": {name: parts[name] / sum(wall["with"]) for name in PARTS},
        "checkpoint_seconds": parts["checkpoint"] / groups,
        "epoch_seconds": {name: statistics.median(values) for name, values in wall.items()},
        "seconds": seconds,
    }


def _shares(whole: list[float], bare: list[float]) -> dict[str, Any]:
    """Of the steps per second that are lost, one value per group."""
    lost = [1 - b / a for a, b in zip(whole, bare, strict=True)]
    return {"median": statistics.median(lost), "lowest": min(lost), "highest": max(lost), "all": lost}


P = ParamSpec("P")
R = TypeVar("R")


def _timed(call: Callable[P, R], parts: defaultdict[str, float], name: str) -> Callable[P, R]:
    @functools.wraps(call)
    def timed(*arguments: P.args, **options: P.kwargs) -> R:
        started = perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            parts[name] += perf_counter() - started

    return timed


@contextmanager
def _output_into(file: Path) -> Iterator[None]:
    """Standard output and error of the trainers; three dashboards on one terminal help nobody."""
    kept = [os.dup(1), os.dup(2)]
    with file.open("wb") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]

    def share(name: str, clock: str) -> str:
        values = result[name][clock]
        return f"{values['median']:.2%} ({values['lowest']:.2%} to {values['highest']:.2%})"

    parts = ", ".join(f"{name} {value:.2%}" for name, value in result["parts"].items())
    return "\n".join(
        [
            f"{machine['cores']} cores, {machine['cpu']} ({', '.join(machine['flags'])}), GPU {machine['gpu']}, torch "
            f"{machine['torch']}, load {machine['load before the start']} before the start.",
            f"{' '.join(result['overrides']) or 'The default run'}: {result['plan']}; "
            f"{result['steps_per_second']:,.0f} agent steps/s without. Median (lowest to highest) of "
            f"{result['groups']} groups of {result['interval']} epochs of each, in turns after every epoch.",
            "",
            "| share of the steps per second | wall time | CPU time of the trainer |",
            "|---|---|---|",
            f"| cost of reliability | {share('cost', 'wall')} | {share('cost', 'cpu')} |",
            f"| control: two loops without it | {share('control', 'wall')} | {share('control', 'cpu')} |",
            f"| timed by itself: {parts} | {sum(result['parts'].values()):.2%} | |",
            "",
            f"A checkpoint takes {result['checkpoint_seconds']:.2f} s, the median epoch "
            f"{1000 * result['epoch_seconds']['with']:.0f} ms with, "
            f"{1000 * result['epoch_seconds']['without']:.0f} ms without, "
            f"{1000 * result['epoch_seconds']['control']:.0f} ms in the control.",
        ]
    )


if __name__ == "__main__":
    main()
