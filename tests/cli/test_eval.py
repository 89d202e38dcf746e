"""`metta-eval` as a user meets it, on a run that was really trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metta_train.cli.eval import main
from tests.cli.command import Finished, metta_train, run_python
from tests.fakes.run_folders import write_run

SHORT = "env.max_steps=20"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with the runs `mine`, `twin` (the other kind of agent) and `pole`."""
    data_dir = tmp_path_factory.mktemp("eval") / "runs"
    smoke = ["trainer=smoke", "wandb=off", f"data_dir={data_dir}"]
    for run in (["run=mine"], ["run=twin", "seed=2", "py_agent=fast"]):
        done = metta_train(*run, *smoke, SHORT, "env.task.rooms=1", folder=data_dir.parent)
        assert done.code == 0, done.err
    pole = ["agent=mlp", "env=gymnasium", "env.id=CartPole-v1", "trainer.total_timesteps=1000"]
    done = metta_train("run=pole", *smoke, *pole, folder=data_dir.parent)
    assert done.code == 0, done.err
    return data_dir


def ran(capsys: pytest.CaptureFixture[str], trained: Path, *arguments: str) -> Finished:
    code = main([*arguments, "--data-dir", str(trained)])
    out, err = capsys.readouterr()
    return Finished(code, out, err)


def told(capsys: pytest.CaptureFixture[str], trained: Path, *arguments: str) -> dict[str, Any]:
    done = ran(capsys, trained, *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def rewards(evaluation: dict[str, Any]) -> list[float]:
    return [episode["reward"] for episode in evaluation["episodes"]]


def test_whole_episodes_and_their_statistics(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = told(capsys, trained, "mine", "--episodes", "6")
    (run,) = result["runs"]
    assert (run["run"], run["agent_step"], result["greedy"], result["suite"]) == ("mine", 2304, False, None)
    (evaluation,) = result["evaluations"]
    assert [episode["length"] for episode in evaluation["episodes"]] == [20] * 6, "none is shortened"
    scores = sorted(rewards(evaluation))
    assert evaluation["score"]["mean"]["value"] == pytest.approx(sum(scores) / 6)
    assert evaluation["score"]["median"]["value"] == pytest.approx((scores[2] + scores[3]) / 2)
    assert evaluation["score"]["iqm"]["value"] == pytest.approx(sum(scores[1:5]) / 4)
    # A heart is the reward, and nothing else is.
    assert evaluation["statistics"]["agent/heart.gained"] == pytest.approx(np.mean(scores))


def test_the_same_command_gives_the_same_episodes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def episodes(*arguments: str) -> list[Any]:
        (evaluation,) = told(capsys, trained, "mine", "env.max_steps=60", *arguments)["evaluations"]
        return [evaluation["episodes"], evaluation["statistics"]]

    first = episodes("--episodes", "6")
    assert episodes("--episodes", "6") == first
    assert episodes("--episodes", "6", "--workers", "2") == first
    assert episodes("--episodes", "6", "--seed", "1") != first
    assert episodes("--episodes", "6", "--greedy") != first


def test_greedy_episodes_do_not_depend_on_how_many_there_are(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """35 episodes are played in two groups; the 4 of a shorter evaluation are the first 4 of them."""
    arguments = ("mine", "--greedy", "env.max_steps=30")
    many = rewards(told(capsys, trained, *arguments, "--episodes", "35")["evaluations"][0])
    few = rewards(told(capsys, trained, *arguments, "--episodes", "4")["evaluations"][0])
    assert len(many) == 35 and many[:4] == few


def test_the_random_policy_plays_beside_it_and_alone(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = told(capsys, trained, "mine", "--random", "--episodes", "3")["evaluations"]
    assert [evaluation["policy"] for evaluation in both] == ["mine:2304", "random"]
    alone = told(capsys, trained, "--random", "env=forage", SHORT, "env.task.rooms=1", "--episodes", "3")
    assert alone["runs"] == []
    assert alone["evaluations"][0]["episodes"] == both[1]["episodes"], "the same maps, the same noise"


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_fits_and_tells_everything(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = ran(capsys, trained, "mine:best", "--episodes", "4", "--random")
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert max(len(line) for line in lines) <= columns
    assert "4 episodes each, seed 0, actions sampled" in " ".join(lines[:2])
    assert re.search(r"^mine:\d+ +[\d.]+ ", done.out, re.MULTILINE)
    assert done.out.count("95 % interval") == (1 if columns == 80 else 3)
    assert "agent/action.move.success" in done.out


def test_a_suite_plays_on_every_environment(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "two.yaml").write_text(
        f"episodes: 2\nseed: 5\nenvironments:\n  one: [env=forage, {SHORT}]\n  wide: [env=forage, {SHORT}, "
        "env.task.room_size=14]\n"
    )
    arguments = ("mine", "--suite", "two", "--config-dir", str(tmp_path))
    result = told(capsys, trained, *arguments)
    assert [(e["environment"], e["seed"], len(e["episodes"])) for e in result["evaluations"]] == [
        ("one", 5, 2),
        ("wide", 5, 2),
    ]
    shown = ran(capsys, trained, *arguments).out
    assert re.search(r"^wide +mine:2304 ", shown, re.MULTILINE)
    assert shown.startswith("suite two: one, wide: reward per episode and agent, 2 episodes each, seed 5,")


def test_several_runs_play_on_the_same_maps_and_stand_in_one_table(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = told(capsys, trained, "mine", "twin:1536", "--random", "--episodes", "3")
    assert [(run["run"], run["agent_step"]) for run in both["runs"]] == [("mine", 2304), ("twin", 1536)]
    assert [e["policy"] for e in both["evaluations"]] == ["mine:2304", "twin:1536", "random"]
    for number, run in enumerate(["mine", "twin:1536"]):
        (alone,) = told(capsys, trained, run, "--episodes", "3")["evaluations"]
        assert alone["episodes"] == both["evaluations"][number]["episodes"]
    shown = ran(capsys, trained, "[mt]*", "--episodes", "3")
    assert shown.err == "" and re.findall(r"^(mine|twin):2304 ", shown.out, re.MULTILINE) == ["mine", "twin"]


def test_runs_of_different_environments_play_on_their_own_unless_one_is_named(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = ran(capsys, trained, "mine", "pole", "--episodes", "2")
    assert done.code == 0
    assert done.err == "these runs have different environments; env=NAME or --suite NAME compares them on one\n"
    assert re.search(r"^forage +mine:2304 .*^CartPole-v1 +pole:\d+ ", done.out, re.MULTILINE | re.DOTALL)
    assert "all of them" not in done.out, "nobody played on both"


def test_gymnasium_and_memoryless_policies_are_evaluated_too(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (evaluation,) = told(capsys, trained, "pole", "--episodes", "5")["evaluations"]
    assert rewards(evaluation) == [episode["length"] for episode in evaluation["episodes"]], "1 per step"


def test_nothing_is_written(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}

    before = files()
    assert ran(capsys, trained, "mine", "--episodes", "1").code == 0
    assert files() == before


def test_a_damaged_newest_checkpoint_is_passed_over_and_a_named_one_is_not(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = max((trained / "mine" / "checkpoints").glob("step-*")) / "model.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[:-1])
    try:
        done = ran(capsys, trained, "mine", "--episodes", "1")
        assert done.code == 0 and "passed over, damaged" in done.err and "mine:1536" in done.out
        assert ran(capsys, trained, "mine:2304", "--episodes", "1").code == 3
    finally:
        newest.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["min"], 2, "did you mean mine?"),
        ([], 2, "which run?"),
        (["mine", "pole", "--suite", "forage"], 2, " on forage: component"),
        (["mine", "emp*:best"], 3, "no checkpoint"),
        (["mine", "x*"], 2, "has such a name"),
        (["mine:newest"], 2, "mine:latest"),
        (["mine:"], 2, "mine:latest"),
        (["mine:2000"], 3, "the nearest is mine:2304"),
        (["empty"], 3, "no checkpoint yet"),
        (["mine", "env=arena"], 2, "does not fit"),
        (["mine", "env=gymnasium"], 2, ""),
        (["mine", "env.max_step=3"], 2, "did you mean env.max_steps?"),
        (["mine", "trainer=smoke"], 2, "the environment alone"),
        (["mine", "--suite", "arenas"], 2, "did you mean arena?"),
        (["mine", "--suite", "arena", SHORT], 2, "leave one out"),
        (["mine", "--episodes", "0"], 2, "needs 1 or more"),
        (["mine", "--episode", "3"], 2, "did you mean --episodes?"),
        (["mine", "--device", "cuda:99"], 2, "CUDA devices"),
        (["mine", "--device", "gpu"], 2, "gpu"),
    ],
)
def test_a_mistake_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    if not (trained / "empty").exists():
        write_run(trained, "empty", scores=())
    done = ran(capsys, trained, *arguments)
    assert done.code == code, done
    assert said in done.err and len(done.err.splitlines()) == 1 and done.out == ""


def test_the_program_itself_in_a_pipe(trained: Path) -> None:
    done = run_python(["-m", "metta_train.cli.eval", "mine", "--episodes", "2"], trained, DATA_DIR=str(trained))
    assert done.code == 0 and done.err == "" and "\x1b" not in done.out
    assert "metta-eval mine:best" in run_python(["-m", "metta_train.cli.eval", "--help"], trained).out
