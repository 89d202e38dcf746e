"""Measure our trainer beside PufferLib's and a plain eager one, in turns, on the same environment, network and sizes.

    python scripts/benchmark.py --quick
    python scripts/benchmark.py --repeats 7 --seconds 4 --threads 1 --out docs/benchmarks/two-cores

Each arm is a process of its own that waits while the others work. One repeat measures every arm once in every column:

env          the environments alone, random actions
inference    a rollout: environments, policy, storing
full         whole epochs: rollouts, updates, statistics

Rates are agent steps per wall second. A machine that others use too makes them unsteady; the ratios of one repeat are
measured within seconds of each other, so their median is what counts. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from benchmark_parts.client import ArmProcess, Sample
from benchmark_parts.machine import describe_machine, matmul_rate
from benchmark_parts.workload import Workload, plan_of
from metta_train.training.resources import usable_cores

COLUMNS = ("env", "inference", "full")
ADAM = "trainer.optimizer.type=adam"
# Multiply-adds of one forward pass behind the first layer:
# cnn2, fc1, encoded_obs, core, critic_1, value, actor_1, query.
MACS = 576 * 64 + 64 * 128 + 128 * 128 + 2 * 4 * 128 * 256 + 128 * 1024 + 1024 + 128 * 512 + 512 * 16


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", default=[], help="of metta-train, e.g. env=arena py_agent=fast")
    parser.add_argument("--arms", nargs="+", default=["ours", "pufferl", "reference"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="OMP_NUM_THREADS of every arm")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each stretch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="done within a minute")
    parser.add_argument("--out", type=Path, default=None, help="path without suffix")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds = 3, 0.5
    torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    table = markdown(result)
    print(table)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
        arguments.out.with_suffix(".md").write_text(table + "\n")


def measure(arguments: argparse.Namespace) -> dict:
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        arms: dict[str, ArmProcess] = {}
        for name in arguments.arms:
            data_dir = str(Path(folder, name))
            # One optimizer for all: the other arms have no Muon.
            adam = () if any("optimizer.type" in given for given in arguments.overrides) else (ADAM,)
            workload = Workload(
                (*adam, *arguments.overrides), arguments.precision, arguments.device, data_dir, arguments.seed
            )
            log = Path(folder, f"{name}.log")
            arms[name] = stack.enter_context(ArmProcess(name, workload, arguments.threads, log))
        warm_up = {name: {column: arm.measure(column, 0.0).wall for column in COLUMNS} for name, arm in arms.items()}
        samples: dict[str, dict[str, list[Sample]]] = {name: {column: [] for column in COLUMNS} for name in arms}
        rates: list[float] = []
        for repeat in range(arguments.repeats):
            # Turns change direction, so that a drift of the machine favours nobody.
            order = list(arms) if repeat % 2 == 0 else list(reversed(arms))
            for column in COLUMNS:
                for name in order:
                    seconds = arguments.seconds if column == "full" else arguments.seconds / 2
                    samples[name][column].append(arms[name].measure(column, seconds))
            rates.append(matmul_rate(torch.bfloat16 if arguments.precision == "bf16" else torch.float32, seconds=0.2))
        config = workload.config()
        plan = plan_of(config)
        return {
            "machine": machine,
            "threads": arguments.threads,
            "precision": arguments.precision,
            "overrides": arguments.overrides,
            "plan": asdict(plan),
            "update_epochs": config.trainer.update_epochs,
            "repeats": arguments.repeats,
            "seconds": arguments.seconds,
            "matmul_gflops": statistics.median(rates),
            "arms": {
                name: {
                    "parameters": arms[name].parameters,
                    "start_seconds": arms[name].start_seconds,
                    "first_unit_seconds": warm_up[name],
                    "memory_mib": samples[name]["full"][-1].memory / 2**20,
                    **{column: _rates(samples[name][column]) for column in COLUMNS},
                    "cpu_us_per_step": 1e6 * statistics.median(s.cpu / s.agent_steps for s in samples[name]["full"]),
                }
                for name in arms
            },
        }


def _rates(samples: list[Sample]) -> dict[str, object]:
    rates = [sample.rate for sample in samples]
    return {"median": statistics.median(rates), "lowest": min(rates), "highest": max(rates), "all": rates}


def ratios(result: dict, column: str) -> dict[str, float]:
    """Median over the repeats of ours / the other arm's, each pair measured in the same repeat."""
    ours = result["arms"]["ours"][column]["all"]
    return {
        name: statistics.median(a / b for a, b in zip(ours, values[column]["all"], strict=True))
        for name, values in result["arms"].items()
        if name != "ours"
    }


def ceiling(result: dict) -> float:
    """Agent steps per second if envs ran alone and matrix products at full rate, one after the other."""
    passes = 1 + 3 * result["update_epochs"]  # backward is two forwards
    seconds = 1 / result["arms"]["ours"]["env"]["median"] + 2 * MACS * passes / (result["matmul_gflops"] * 1e9)
    return 1 / seconds


def markdown(result: dict) -> str:
    machine, plan = result["machine"], result["plan"]
    lines = [
        f"{machine['cores']} cores, {machine['cpu']} ({', '.join(machine['flags'])}), GPU {machine['gpu']}, torch "
        f"{machine['torch']}, load {machine['load before the start']} before the start.",
        f"{result['threads']} threads, {result['precision']}; {' '.join(result['overrides']) or 'env=forage'}: "
        f"{plan['rows']} rows x {plan['steps']} steps, horizon {plan['bptt_horizon']}, minibatch "
        f"{plan['minibatch_size']}, {result['update_epochs']} update epochs. Median (lowest-highest) of "
        f"{result['repeats']} repeats, agent steps per second.",
        "",
        "| arm | env only | env + inference | full loop | us of CPU per step | memory, MiB | start + first epoch, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in result["arms"].items():
        cells = [f"{arm[c]['median']:,.0f} ({arm[c]['lowest']:,.0f}-{arm[c]['highest']:,.0f})" for c in COLUMNS]
        started = f"{arm['start_seconds']:.1f} + {arm['first_unit_seconds']['full']:.1f}"
        lines.append(
            f"| {name} ({arm['parameters']:,}) | {' | '.join(cells)} | {arm['cpu_us_per_step']:.0f} | "
            f"{arm['memory_mib']:,.0f} | {started} |"
        )
    if "ours" in result["arms"]:
        for name in (n for n in result["arms"] if n != "ours"):
            cells = [f"{ratios(result, column)[name]:.2f}x" for column in COLUMNS]
            lines.append(f"| **ours / {name}** | {' | '.join(cells)} | | | |")
        top = ceiling(result)
        share = result["arms"]["ours"]["full"]["median"] / top
        lines += [
            "",
            f"Ceiling: {top:,.0f} agent steps/s (env-only rate, then matrix products at the measured "
            f"{result['matmul_gflops']:,.0f} GFLOP/s); ours reaches {share:.0%} of it.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
