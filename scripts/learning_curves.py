"""Draw the learning curves of finished runs beside the random policy's reward, and print how far they got.

    python scripts/learning_curves.py --out docs/images/forage train_dir/agent-1 train_dir/agent-2 ...

Reads `metrics.jsonl` and `config.yaml` of each run folder; the random policy plays the first run's environment.
Writes OUT.png and OUT.svg. Needs the extra `plots`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import yaml

from metta_train.assembly.evaluation import random_policy_score
from metta_train.run_config import RunConfig

SMOOTHING = 8  # epochs in which episodes ended
LAST_SHARE = 0.1  # "the last tenth of the run"


def main() -> None:
    """Parse, read, draw."""
    parser = argparse.ArgumentParser(description="Learning curves of finished runs beside the random policy.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    parser.add_argument("--random-episodes", type=int, default=64)
    arguments = parser.parse_args()
    saved = yaml.safe_load((arguments.runs[0] / "config.yaml").read_text())
    baseline = random_policy_score(RunConfig.from_tree(saved, "saved"), num_episodes=arguments.random_episodes)
    print(f"random policy: {baseline:.3f} per episode and agent ({arguments.random_episodes} episodes)")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for run in arguments.runs:
        steps, rewards, seconds = read_curve(run)
        last = rewards[steps > steps[-1] * (1 - LAST_SHARE)].mean()
        print(
            f"{run.name}: last tenth {last:.3f} = {last / baseline:.1f} x random, "
            f"{steps[-1]:,.0f} agent steps in {seconds:.0f} s"
        )
        (line,) = axes.plot(steps, smoothed(rewards), label=run.name, linewidth=1.5)
        axes.plot(steps, rewards, color=line.get_color(), linewidth=0.5, alpha=0.4)
    axes.axhline(baseline, color="grey", linestyle="--", linewidth=1, label="random policy")
    axes.axhline(5 * baseline, color="grey", linestyle=":", linewidth=1, label="5 x random")
    axes.set_xlabel("agent steps")
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1e3:.0f}k")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("reward per episode and agent")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(arguments.out.with_suffix(suffix), dpi=150)


def read_curve(run: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Agent steps and mean episode reward of the epochs in which episodes ended, and the run's wall seconds."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [record for record in records if "overview/reward" in record]
    steps = np.array([record["metric/agent_step"] for record in told])
    rewards = np.array([record["overview/reward"] for record in told])
    return steps, rewards, records[-1]["metric/total_time"]


def smoothed(rewards: np.ndarray) -> np.ndarray:
    """Running mean over the last SMOOTHING values."""
    return np.array([rewards[max(0, end - SMOOTHING) : end].mean() for end in range(1, len(rewards) + 1)])


if __name__ == "__main__":
    main()
