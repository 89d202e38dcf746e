from __future__ import annotations

from metta_train.reporting.next_commands import continue_commands, next_commands
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
    (lowered,) = continue_commands(["metta-train"], run="a", total_timesteps=1000, agent_step=9000)
    assert lowered.command == "metta-train run=a trainer.total_timesteps=18000"


def test_secrets_are_not_printed() -> None:
    (command,) = continue_commands(["t", "x.api_key=hunter22"], run="a", total_timesteps=2, agent_step=1)
    assert "hunter22" not in command.command


def commands(**changes: object) -> list[str]:
    facts = {
        "run": "a",
        "total_timesteps": 9,
        "agent_step": 3,
        "data_dir": None,
        "saved": True,
        "rewarded": True,
    } | changes
    return [command.command for command in next_commands(["metta-train"], **facts)]  # pyright: ignore[reportArgumentType]


def test_a_run_is_measured_watched_drawn_and_continued() -> None:
    assert commands() == [
        "metta-eval a --random",
        "metta-play a",
        "metta-runs plot a",
        "metta-train run=a",
    ]


def test_runs_elsewhere_are_found_and_without_a_checkpoint_nothing_plays() -> None:
    assert commands(saved=False, data_dir="/my runs") == [
        "metta-runs plot a --data-dir '/my runs'",
        "metta-train run=a",
    ]
    assert commands(saved=False, rewarded=False) == ["metta-train run=a"]
