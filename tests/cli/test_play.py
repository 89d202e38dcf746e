"""`metta-play` as a user meets it: in a pipe, on a terminal, and into files."""

from __future__ import annotations

import json
import os
import re
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metta_train.cli import play
from metta_train.playback.keyboard import LEAVE
from tests.cli.command import Finished, metta_train, run_python
from tests.fakes.pseudo_terminal import Child
from tests.fakes.run_folders import write_run

MODULE = "metta_train.cli.play"
SMALL = ("env=forage", "env.task.rooms=1", "env.max_steps=8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with the run `mine`."""
    data_dir = tmp_path_factory.mktemp("play") / "runs"
    smoke = ["trainer=smoke", "wandb=off", f"data_dir={data_dir}", "env.max_steps=20", "env.task.rooms=1"]
    done = metta_train("run=mine", *smoke, folder=data_dir.parent)
    assert done.code == 0, done.err
    return data_dir


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(capsys: pytest.CaptureFixture[str], *arguments: str, data_dir: Path | None = None) -> Finished:
    place = [] if data_dir is None else ["--data-dir", str(data_dir)]
    code = play.main([*arguments, *place])
    out, err = capsys.readouterr()
    return Finished(code, out, err)


def told(capsys: pytest.CaptureFixture[str], *arguments: str, data_dir: Path | None = None) -> dict[str, Any]:
    done = ran(capsys, *arguments, "--json", data_dir=data_dir)
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


# ----- in a pipe


def test_a_pipe_gets_a_line_per_step(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = ran(capsys, "mine", "env.max_steps=6", data_dir=trained)
    assert (done.code, done.err) == (0, "") and "\x1b" not in done.out
    title, heads, *lines, last = done.out.splitlines()
    assert re.fullmatch(r"mine:\d+ on forage, episode 1, actions sampled", title)
    assert heads.split() == ["step", "reward", "total", "actions"]
    assert [int(line.split()[0]) for line in lines] == list(range(7))
    for line in lines[:-1]:
        counts = [int(count) for count in re.findall(r"[a-z_]+ (\d+)", line)]
        assert sum(counts) == 4, "every agent does something"
    assert re.fullmatch(r"episode 1: 6 steps, reward \d+\.\d{4} \(mean of 4 agents.*\)", last)


def test_a_log_of_one_agent(capsys: pytest.CaptureFixture[str]) -> None:
    done = ran(capsys, "--random", *SMALL, "--agent", "2", "--episode", "4", "--episodes", "2", "--steps", "3")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.startswith("episode")] == [
        line for line in done.out.splitlines() if re.match(r"episode [45]: 3 steps", line)
    ]
    assert len(re.findall(r"^ +\d .*(?:noop|move_\w+)  20\.0%  value 0\.0000$", done.out, re.MULTILINE)) == 6


def test_the_numbers_are_metta_evals(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from metta_train.cli import eval as evaluation

    for option in ([], ["--greedy"], ["--seed", "5"]):
        assert evaluation.main(["mine", "--episodes", "1", "--json", "--data-dir", str(trained), *option]) == 0
        (expected,) = json.loads(capsys.readouterr().out)["evaluations"][0]["episodes"]
        (episode,) = told(capsys, "mine", *option, data_dir=trained)["episodes"]
        assert (episode["length"], episode["reward"]) == (expected["length"], expected["reward"])
        assert sum(episode["rewards"]) / 4 == pytest.approx(episode["reward"])


def test_the_random_policy_needs_no_run_and_plays_on_a_runs_maps(
    trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    alone = told(capsys, "--random", "env=forage", "env.max_steps=20", "env.task.rooms=1")
    beside = told(capsys, "mine", "--random", data_dir=trained)
    assert alone == beside and alone["policy"] == "random" and alone["seed"] == 0
    assert list(folder.iterdir()) == []


# ----- files


def test_films_a_replay_and_a_page_of_one_episode(
    trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    done = ran(capsys, "mine", "--greedy", "--gif", "a.gif", "--replay", "--html", "a.html", data_dir=trained)
    assert (done.code, done.err) == (0, "")
    first, *wrote = done.out.splitlines()
    assert first.startswith("episode 1: 20 steps, reward ")
    replay = trained / "mine" / "replays" / "step-000000002304-greedy-forage-seed-0-episode-1.json.z"
    assert wrote == [f"wrote {replay}", "wrote a.html", "wrote a.gif"]
    with Image.open("a.gif") as film:
        assert film.n_frames == 21  # pyright: ignore[reportAttributeAccessIssue]
    assert json.loads(zlib.decompress(replay.read_bytes()))["max_steps"] == 20
    assert "forage, episode 1, greedy" in Path("a.html").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["a.gif", "a.html"]

    ran(capsys, "mine", "--greedy", "--replay", data_dir=trained)
    assert list(replay.parent.iterdir()) == [replay], "the same episode is the same file"
    ran(capsys, "mine", "--greedy", "--replay", "env.max_steps=9", data_dir=trained)
    assert len(list(replay.parent.iterdir())) == 2, "another one does not replace it"

    again = told(capsys, str(replay), "--html", "b.html")
    assert again["episodes"][0]["length"] == 20 and again["files"] == ["b.html"] and again["seed"] is None
    log = ran(capsys, str(replay), "--agent", "0")
    assert log.code == 0 and len(log.out.splitlines()) == 23 and "value" in log.out


def test_replays_of_the_random_policy_lie_where_it_was_called(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    done = ran(capsys, "--random", *SMALL, "--replay", "--episodes", "2")
    names = [f"random-forage-seed-0-episode-{episode}.json.z" for episode in (1, 2)]
    assert sorted(path.name for path in (folder / "replays").iterdir()) == names
    assert done.out.splitlines()[2:] == [f"wrote replays/{name}" for name in names]


def test_mp4_without_an_encoder_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = ran(capsys, "--random", *SMALL, "--mp4", "a.mp4")
    assert done.code == 2 and done.err.count("\n") == 1 and "metta-train[video]" in done.err
    assert list(folder.iterdir()) == []


def test_gymnasium_environments(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    drawing = ("--random", "env=gymnasium", "env.id=tests.envs.test_stage:tests/Drawing-v0")
    from tests.envs.test_stage import Drawing, Silent, gymnasium_config

    gymnasium_config(Drawing)
    gymnasium_config(Silent)
    assert told(capsys, *drawing, "--gif", "a.gif")["episodes"][0]["length"] == 5
    with Image.open("a.gif") as film:
        assert film.n_frames == 6  # pyright: ignore[reportAttributeAccessIssue]
    for option in (["--replay"], ["--html", "a.html"]):
        done = ran(capsys, *drawing, *option)
        assert done.code == 2 and "has no replay format" in done.err and done.err.count("\n") == 1
    silent = ran(capsys, "--random", "env=gymnasium", "env.id=tests/Silent-v0", "--gif", "b.gif")
    assert silent.code == 2 and "draws no pictures" in silent.err
    assert ran(capsys, "--random", "env=gymnasium", "env.id=tests/Silent-v0").code == 0, "a log needs none"


# ----- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which run?"),
        (["none"], "no run 'none'"),
        (["mine", "other"], "one run at a time"),
        (["mine", "trainer=smoke"], "changes the environment alone"),
        (["mine", "env.max_stepz=3"], "did you mean"),
        (["mine", "--agent", "4"], "forage has 4, from 0 to 3"),
        (["mine", "--steps", "0"], "--steps 0: needs 1 or more"),
        (["mine", "--fps", "60", "--gif", "a.gif"], "--fps 60: needs 50 or less"),
        (["mine", "--gif", "a.png"], "needs a file name that ends with .gif"),
        (["mine", "--html", "nowhere/a.html"], "there is no folder nowhere"),
        (["mine", "--html", "a.html", "--episodes", "2"], "a page holds one episode"),
        (["mine", "--greddy"], "--greedy"),
        (["x.json.z"], "there is no such file"),
        (["x.json.z", "--random"], "leave out --random"),
        (["mine", "env=gymnasium", "env.id=CartPole-v1"], ""),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    done = ran(capsys, *arguments, data_dir=trained)
    assert (done.code, done.out) == (2, "")
    assert message in done.err and done.err.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_checkpoints_that_are_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_run(tmp_path, "mine", scores=())
    assert ran(capsys, "mine", data_dir=tmp_path).code == 3
    assert ran(capsys, "mine:12", data_dir=tmp_path).code == 3


def test_help_teaches_and_imports_no_torch(tmp_path: Path) -> None:
    script = f"import sys, {MODULE} as play\ntry: play.main(['--help'])\nexcept SystemExit: pass\n"
    done = run_python(["-c", script + "assert not {'torch', 'mettagrid', 'PIL'} & set(sys.modules)"], tmp_path)
    assert done.code == 0, done.err
    assert "metta-play mine:best --greedy" in done.out and "Keys: space play" in done.out
    assert (
        max(len(line) for line in run_python(["-m", MODULE, "--help"], tmp_path, COLUMNS="80").out.splitlines()) < 120
    )


# ----- on a terminal


def watching(trained: Path, *arguments: str, **environ: str) -> Child:
    command = ("-m", MODULE, "mine", "--data-dir", str(trained), *arguments)
    return Child(*command, LC_ALL="C.UTF-8", OMP_NUM_THREADS="1", **environ)


def test_watching_on_a_terminal(trained: Path) -> None:
    with watching(trained) as child:
        child.read_until("step 0 of 20")
        child.press(" .v?")
        child.read_until("this help")
        child.press("x\x1b[F")  # end
        child.read_until("the end")
        child.press("q")
        assert child.wait() == 0
        seen, _, after = child.text.rpartition(LEAVE)
        assert "forage, episode 1, actions sampled" in seen and ">move" in seen.replace(">noop", ">move")
        assert re.fullmatch(r"episode 1: 20 steps, reward .*\r\n", after) and child.cooked()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_terminal_survives_signals(trained: Path, number: signal.Signals, code: int) -> None:
    with watching(trained, NO_COLOR="1") as child:
        child.read_until("step 1 of 20")
        assert "38;5;" not in child.text and "48;5;" not in child.text
        os.kill(child.pid, number)
        assert child.wait() == code
        assert LEAVE in child.text and child.cooked()


def test_dumb_terminals_get_the_log(trained: Path) -> None:
    with watching(trained, "--steps", "2", TERM="dumb") as child:
        assert child.wait() == 0
        assert "\x1b" not in child.text and "episode 1: 2 steps" in child.text
