from __future__ import annotations

from metta_train.reporting.next_commands import continue_commands
from metta_train.reporting.reporter import NextCommand


def test_a_run_that_is_not_done_goes_on_with_the_same_command() -> None:
    command = ["metta-train", "agent=fast", "run=a b", "env.config=my env.yaml"]
    assert continue_commands(command, run="a", total_timesteps=1000, agent_step=500) == (
        NextCommand("continue the run", "metta-train agent=fast 'env.config=my env.yaml' run=a"),
    )


def test_a_run_that_is_done_gets_a_longer_goal() -> None:
    command = ["metta-train", "trainer.total_timesteps=1000", "py_agent=fast"]
    assert continue_commands(command, run="a", total_timesteps=1000, agent_step=1024) == (
        NextCommand("train it for twice as long", "metta-train py_agent=fast run=a trainer.total_timesteps=2000"),
    )


def test_secrets_are_not_printed() -> None:
    (command,) = continue_commands(["t", "x.api_key=hunter22"], run="a", total_timesteps=2, agent_step=1)
    assert "hunter22" not in command.command
