"""`metta-train --dry-run`: everything that can fail before the first epoch, and what the training would cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.cli.compose import located
from metta_train.cli.exit_codes import CRASH, exit_code_of
from metta_train.cli.signals import stop_on_signals
from metta_train.reporting.results import shown_path
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation
from metta_train.training.stopping import StopRequest

if TYPE_CHECKING:
    from metta_train.assembly.rehearsal import Rehearsal
    from metta_train.training.memory import ExpectedMemory

LAYERS_SHOWN = 24
MIB = 2**20


def dry_run(config: RunConfig) -> None:
    """Build everything, take one step, print what a training would be; nothing is written.

    Raises:
        ConfigError: the training would be refused.
        WorkerError: its environments do not start or step.
    """
    folder = located(config.data_dir, config.run)
    stop = StopRequest()
    with stop_on_signals(stop):
        from metta_train.assembly.rehearsal import rehearse  # torch and the environments are imported here

        try:
            rehearsal = rehearse(config, stop)
        except ValueError as error:
            if exit_code_of(error) != CRASH:
                raise
            raise ConfigError(str(error)) from error
    sys.stdout.write("\n".join(_page(config, rehearsal, folder)) + "\n")


def _page(config: RunConfig, rehearsal: Rehearsal, folder: Path) -> list[str]:
    plan, trainer = rehearsal.plan, config.trainer
    left = max(0, trainer.total_timesteps - (rehearsal.continues_at or 0))
    where = "in this process" if plan.num_workers == 0 else f"in {plan.num_workers} worker processes"
    pieces = plan.minibatch_size // plan.max_minibatch_size
    lines = [
        *_entries(
            ("run", f"{config.run}: {_beginning(config, rehearsal, folder)}"),
            ("agent", f"{config.agent_name} on {rehearsal.device}, {plan.precision}"),
            ("environment", _environment(rehearsal.spec)),
        ),
        "",
        "Batch plan",
        *_entries(
            ("environments", f"{plan.num_envs} {where}, {plan.num_slices} in flight" if plan.num_slices > 1 else ""),
            ("environments", f"{plan.num_envs} {where}" if plan.num_slices == 1 else ""),
            ("rollout", f"{plan.rows:,} agents x {plan.steps:,} steps = {plan.batch_size:,} agent steps per epoch"),
            ("segments", f"{plan.segments:,} of {plan.bptt_horizon} steps"),
            ("update", f"{trainer.update_epochs} x {plan.num_minibatches} gradient steps of {plan.minibatch_size:,}"),
            ("", f"each in {pieces} pieces of {plan.max_minibatch_size:,}" if pieces > 1 else ""),
            ("epochs", f"{-(-left // plan.batch_size):,} for {left:,} agent steps"),
        ),
        "",
        "Parameters",
        *_parameters(rehearsal.parameters),
        "",
        "Expected memory",
        *_memory(rehearsal.memory, rehearsal.free_memory, rehearsal.device),
        "",
        f"Built, and stepped once: every agent of {plan.num_envs} environments. Nothing was written.",
    ]
    return lines


def _beginning(config: RunConfig, rehearsal: Rehearsal, folder: Path) -> str:
    if rehearsal.continues_at is not None:
        return f"would go on at {rehearsal.continues_at:,} agent steps, in {shown_path(folder)}"
    taken = folder.is_dir() and any(folder.iterdir())
    if taken and config.restart == "overwrite":
        return f"would delete what is in {shown_path(folder)} and begin"
    if taken and config.restart == "new":
        return "is taken; would begin under the next free name"
    return f"would begin in {shown_path(folder)}"


def _environment(spec: EnvironmentSpec) -> str:
    agents = "1 agent" if spec.num_agents == 1 else f"{spec.num_agents} agents"
    seen = spec.observation
    if isinstance(seen, TokenObservation):
        sees = f"{seen.num_tokens} tokens, {seen.num_channels} channels of {seen.window_height} x {seen.window_width}"
    else:
        sees = f"{' x '.join(map(str, seen.shape)) or 'one number'} {seen.dtype}"
    return f"{spec.name}: {agents}, {sees}, {len(spec.actions)} actions"


def _parameters(layers: Sequence[tuple[str, int]]) -> list[str]:
    shown = [(name, f"{count:>12,}") for name, count in layers[:LAYERS_SHOWN]]
    rest = layers[LAYERS_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} more", f"{sum(count for _, count in rest):>12,}"))
    return _entries(*shown, ("all", f"{sum(count for _, count in layers):>12,}"))


def _memory(memory: ExpectedMemory, free: int, device: str) -> list[str]:
    rows = [
        ("network", memory.network, "weights, gradients, optimizer"),
        ("rollout", memory.buffer, "one epoch's experience"),
        ("minibatch", memory.minibatch, "its copy"),
        ("activations", memory.activations, "of one gradient step"),
        ("together", memory.on_device, f"on {device}, which has {free / MIB:,.0f} MiB free"),
        ("process", memory.process, "with everything loaded, before the first epoch"),
    ]
    if memory.others:
        rows.append(("others", memory.others, "processes of environments and learners, together"))
    lines = _entries(*((name, f"{size / MIB:>8,.1f} MiB  {what}") for name, size, what in rows))
    if memory.on_device > free:
        lines.append(
            "  It will not fit: make trainer.max_minibatch_size, trainer.batch_size or trainer.num_envs smaller."
        )
    return lines


def _entries(*entries: tuple[str, str]) -> list[str]:
    """Names on the left; entries without a text are left out."""
    width = max(len(name) for name, _ in entries)
    return [f"  {name:<{width}}  {text}" for name, text in entries if text]
