"""Run folders written by the product's own writers, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from metta_train import load_config
from metta_train.reporting.jsonl import JsonlReporter
from metta_train.reporting.reporter import RunHeader, RunOutcome
from metta_train.specs.records import Progress
from metta_train.training import checkpoints
from metta_train.training.checkpoint_files import CheckpointState
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_paths import RunPaths
from metta_train.training.run_status import RunState, RunStatus
from tests.fakes.epoch_records import episode, epoch_record


def write_run(
    data_dir: Path,
    run: str,
    *overrides: str,
    state: RunState = "done",
    rewards: Sequence[float] = (1.0, 2.0, 3.0, 4.0),
    scores: Sequence[float | None] = (None, 0.5),
    scored_by: str | None = None,
    goal: int = 10_000,
) -> RunPaths:
    """A run of one epoch of 1000 steps and 2 seconds per reward; the last epochs are saved, one per score."""
    config = load_config(["wandb=off", f"run={run}", f"data_dir={data_dir}", *overrides])
    with RunFolder.open(data_dir, run) as folder:
        paths = folder.paths
        folder.adopt_config(config.plain(), resuming=False)
        folder.record_invocation(["metta-train", f"run={run}", *overrides])
        reporter = JsonlReporter(paths.metrics)
        reporter.start(RunHeader(run, paths.folder, "agent=fast", "forage", "cpu", 10, goal))
        for number, reward in enumerate(rewards, start=1):
            reporter.record(epoch_record(number, episodes=[episode(reward)], total=goal))
        reporter.finish(RunOutcome("done", len(rewards), 1000 * len(rewards), 2.0 * len(rewards)))
        for offset, score in enumerate(scores):
            save_checkpoint(paths, len(rewards) - len(scores) + 1 + offset, score, scored_by)
        last = rewards[-1] if rewards else None
        folder.write_status(RunStatus(state, len(rewards), 1000 * len(rewards), goal, reward=last))
    return paths


def save_checkpoint(paths: RunPaths, epoch: int, score: float | None, scored_by: str | None = None) -> Path:
    """A checkpoint after `epoch` epochs of 1000 steps, with a few numbers for weights."""
    state = CheckpointState(
        progress=Progress(epoch=epoch, agent_step=1000 * epoch),
        agent="agent=fast",
        environment="forage",
        metadata={"score": score, "scored_by": scored_by},
    )
    return checkpoints.save(paths.checkpoints, {"w": torch.arange(4.0)}, {}, state)
