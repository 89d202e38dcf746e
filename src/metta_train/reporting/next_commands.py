"""The exact commands that make sense after a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from metta_train.reporting.redaction import redact_argv
from metta_train.reporting.reporter import NextCommand

_LENGTH_KEY = "trainer.total_timesteps"


def next_commands(
    command: Sequence[str],
    *,
    run: str,
    total_timesteps: int,
    agent_step: int,
    data_dir: str | None,
    saved: bool,
    rewarded: bool,
) -> tuple[NextCommand, ...]:
    """Everything that makes sense: measure it, watch it, draw it, continue it.

    Args:
        command: as of `continue_commands`.
        run: as of `continue_commands`.
        total_timesteps: as of `continue_commands`.
        agent_step: as of `continue_commands`.
        data_dir: where the run lies; None where every command looks by itself.
        saved: whether there is a checkpoint.
        rewarded: whether an episode has ended, so that there is a reward to draw.
    """
    place = [] if data_dir is None else ["--data-dir", data_dir]
    looks = [("plot its reward", ["metta-runs", "plot", run])] if rewarded else []
    if saved:
        looks = [
            ("evaluate it beside the random policy", ["metta-eval", run, "--random"]),
            ("watch it play", ["metta-play", run]),
            *looks,
        ]
    goes_on = continue_commands(command, run=run, total_timesteps=total_timesteps, agent_step=agent_step)
    return (*(NextCommand(purpose, shlex.join([*words, *place])) for purpose, words in looks), *goes_on)


def continue_commands(
    command: Sequence[str], *, run: str, total_timesteps: int, agent_step: int
) -> tuple[NextCommand, ...]:
    """How to continue: the same command, and once the run has its full length, the same with twice the length.

    Args:
        command: the program, e.g. "metta-train", and its arguments (those of this job, in a multirun).
        run: its name; added when the arguments do not give it.
        total_timesteps: agent steps asked for.
        agent_step: agent steps done.
    """
    # With restart=overwrite the suggestion would delete what it is about.
    arguments = [argument for argument in redact_argv(command) if not argument.startswith(("run=", "restart="))]
    arguments.append(f"run={run}")
    if agent_step < total_timesteps:
        return (NextCommand("continue the run", shlex.join(arguments)),)
    arguments = [argument for argument in arguments if argument.lstrip("+").partition("=")[0] != _LENGTH_KEY]
    # A run whose goal was lowered has done more than it.
    longer = 2 * (total_timesteps if 2 * total_timesteps > agent_step else agent_step)
    arguments.append(f"{_LENGTH_KEY}={longer}")
    return (NextCommand("train it for twice as long", shlex.join(arguments)),)
