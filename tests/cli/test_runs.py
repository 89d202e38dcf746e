"""`metta-runs` as a user meets it: on terminals of any width, in pipes, as JSON, and when something is wrong."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metta_train.cli.runs import main
from metta_train.training.run_folder import RunFolder
from metta_train.training.run_status import RunStatus
from tests.cli.command import REPOSITORY, Finished, run_python
from tests.fakes.run_folders import write_run

MODULE = ["-m", "metta_train.cli.runs"]
LONG = "fast-forage-20260131-174500-3f9a"


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs a-1 and a-2, which differ by seed, and b, whose learning rate is another one."""
    folder = tmp_path / "runs"
    write_run(folder, "a-1", "seed=1")
    write_run(folder, "a-2", "seed=2", rewards=(2.0, 3.0, 4.0, 5.0))
    write_run(folder, "b", "seed=1", "trainer.optimizer.learning_rate=1e-4", rewards=(0.5, 0.5, 0.5, 0.5))
    monkeypatch.setenv("DATA_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> Finished:
    code = main(arguments)
    out, err = capsys.readouterr()
    return Finished(code, out, err)


def ran_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    done = ran(capsys, *arguments, "--json")
    assert done.err == ""
    return json.loads(done.out)


# ----- list


def test_the_list_tells_state_and_numbers_youngest_first(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(data_dir, "sweep/10", state="running", rewards=(), scores=())
    with RunFolder.open(data_dir, "sweep/9") as held:
        held.write_status(RunStatus("running", 3, 3000, 10_000, reward=1.5))
        for run, updated in (("b", "2026-01-01"), ("a-1", "2026-01-03"), ("a-2", "2026-01-02")):
            status = data_dir / run / "status.json"
            status.write_text(re.sub(r'"updated": ".*"', f'"updated": "{updated}T00:00:00+00:00"', status.read_text()))
        monkeypatch.setenv("COLUMNS", "80")
        lines = ran(capsys).out.splitlines()
    assert lines[0].split() == ["run", "state", "steps", "done", "reward", "steps/s", "age", "saved"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert [*rows][2:] == ["a-1", "a-2", "b"]
    assert rows["sweep/9"][:5] == ["running", "3.00k", "30%", "1.5000", "-"]
    assert rows["sweep/10"][:3] == ["crashed", "0", "0%"], "it says that it runs, and nobody holds its lock"
    assert rows["a-1"][:5] == ["done", "4.00k", "40%", "4.0000", "500"]  # 1000 steps in 2 seconds
    assert rows["a-1"][-1] == "2"


@pytest.mark.parametrize("columns", [80, 110, 200])
def test_a_list_fits_its_terminal_and_shows_whole_names(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    write_run(data_dir, LONG, state="interrupted")
    monkeypatch.setenv("COLUMNS", str(columns))
    out = ran(capsys, "list").out
    assert max(len(line) for line in out.splitlines()) <= columns
    assert re.search(rf"^{LONG}  interrupted", out, re.MULTILINE)
    assert ("agent=fast  forage" in out) == (columns == 200)
    assert ("▁" in out) == (columns >= 110)


def test_a_list_of_some(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {run["name"] for run in ran_json(capsys, "list", "a-*")} == {"a-1", "a-2"}
    (only,) = ran_json(capsys, "list", "b")
    assert only["condition"] == "done" and only["steps_per_second"] == 500.0 and only["rewards"] == [0.5] * 4


def test_an_empty_folder_has_no_runs_and_that_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = ran(capsys, "--data-dir", str(tmp_path / "none"))
    assert (done.code, done.out) == (0, "") and "no runs in" in done.err
    assert ran(capsys, "list", "--data-dir", str(tmp_path), "--json").out == "[]\n"


def test_a_pipe_gets_plain_text_and_no_torch(data_dir: Path) -> None:
    done = run_python([*MODULE, "show", "a-1"], data_dir, COLUMNS="", FORCE_COLOR="")
    assert done.code == 0 and done.err == ""
    assert "\x1b" not in done.out
    assert not [line for line in done.out.splitlines() if line != line.rstrip()]
    script = "import sys; from metta_train.cli.runs import main; main(['list']); print('torch' in sys.modules)"
    assert run_python(["-c", script], data_dir).out.splitlines()[-1] == "False"


def test_output_that_knows_no_unicode_is_shown_in_ascii(data_dir: Path) -> None:
    for command in (["list"], ["show", "a-1"], ["compare", "a-1", "b"]):
        done = run_python([*MODULE, *command], data_dir, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert done.code == 0, done.err
        assert done.out.isascii()


def test_a_reader_that_has_enough_is_no_error(data_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *MODULE, "compare", "a-1", "b", "--json"],
        env={"PYTHONPATH": str(REPOSITORY / "src"), "DATA_DIR": str(data_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


# ----- show, compare


def test_show_tells_everything_about_a_run(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = ran(capsys, "show", "a-1").out
    assert "4,000 of 10,000 (40%), epoch 4" in out
    assert "4.0000 over the last 10% of the run, best epoch 4.0000" in out
    assert "500 steps/s, 8 s in all" in out
    assert "2 checkpoints, latest 4,000, best 4,000 (reward 0.5000)" in out
    assert "metta-train run=a-1 seed=1" in out
    assert "⣀" in out or "⡠" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    told = ran_json(capsys, "show", "a-1")
    assert told["config"]["seed"] == 1 and told["best"] == "step-000000004000" and told["reward_last_tenth"] == 4.0


def test_compare_tells_what_differs(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = ran(capsys, "compare", "a-1", "b").out
    assert re.search(r"trainer\.optimizer\.learning_rate +0\.004 +0\.0001", out)
    assert re.search(r"overview/reward, last tenth +4\.0000 +0\.5000", out)
    assert "o a-1   x b" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    told = ran_json(capsys, "compare", "a-1", "a-2", "--metric", "losses/*")
    assert told["differences"] == [{"key": "seed", "values": ["1", "2"]}]
    assert "losses/entropy" in [metric["metric"] for metric in told["metrics"]]


# ----- checkpoints, verify


def test_checkpoints_marks_latest_and_best(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(data_dir, "scored", scores=(0.25, 0.75, 0.5))
    lines = ran(capsys, "checkpoints", "scored").out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["2,000", "2", "0.2500"],
        ["3,000", "3", "0.7500"],
        ["4,000", "4", "0.5000"],
    ]
    assert " best " in lines[2] and " latest " in lines[3]
    assert [info["score"] for info in ran_json(capsys, "checkpoints", "scored")] == [0.25, 0.75, 0.5]


def test_scores_of_an_evaluation_are_named(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(data_dir, "evaluated", scores=(0.25, 0.75), scored_by="suite forage")
    assert ran(capsys, "checkpoints", "evaluated").out.endswith("\nscores: mean episode reward on suite forage\n")
    assert "best 4,000 (suite forage 0.7500)" in ran(capsys, "show", "evaluated").out
    assert {told["scored_by"] for told in ran_json(capsys, "checkpoints", "evaluated")} == {"suite forage"}


def test_one_checkpoint_can_be_named(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(data_dir, "scored", scores=(0.25, 0.75, 0.5))
    (line,) = ran(capsys, "checkpoints", "scored:best").out.splitlines()[1:]
    assert line.split()[0] == "3,000" and " best " in line and "latest" not in line
    assert [result["name"] for result in ran_json(capsys, "verify", "scored:latest")] == ["step-000000004000"]
    assert ran(capsys, "verify", "scored:1000").code == 3
    done = ran(capsys, "show", "scored:best")
    assert done.code == 2 and "use scored" in done.err


def test_verify_counts_the_damaged(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "verify", "a-1").code == 0
    weights = sorted((data_dir / "a-1" / "checkpoints").glob("*/model.safetensors"))
    weights[0].write_bytes(weights[0].read_bytes()[:-1] + b"\xff")
    done = ran(capsys, "verify", "a-1")
    assert done.code == 1
    assert re.search(r"step-000000003000  DAMAGED  model.safetensors does not have the SHA-256", done.out)
    assert re.search(r"step-000000004000  good", done.out)
    weights[1].unlink()
    done = ran(capsys, "verify", "a-1", "--json")
    assert done.code == 3 and "no good checkpoint" in done.err
    assert [result["good"] for result in json.loads(done.out)] == [False, False]


def test_a_run_without_checkpoints_has_no_good_one(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(data_dir, "none", scores=())
    assert ran(capsys, "verify", "none").code == 3
    done = ran(capsys, "checkpoints", "none")
    assert (done.code, done.out) == (0, "") and "no checkpoint yet" in done.err


# ----- rm


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rm_asks(data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    done = ran(capsys, "rm", "a-1")
    assert done.code == 1 and "remove this run? [y/N]" in done.err and "nothing was removed" in done.err
    assert (data_dir / "a-1").is_dir()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert ran(capsys, "rm", "a-1").out == "removed a-1\n"
    assert not (data_dir / "a-1").exists()


def test_rm_removes_the_folder_and_follows_no_links(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = data_dir.parent / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (data_dir / "a-1" / "link").symlink_to(kept)
    assert ran(capsys, "rm", "a-*", "--yes").out == "removed a-1\nremoved a-2\n"
    write_run(data_dir, "c", scores=())
    assert ran_json(capsys, "rm", "c", "--yes") == [{"run": "c", "folder": str(data_dir / "c")}]
    assert sorted(path.name for path in data_dir.iterdir()) == ["b"]
    assert (kept / "file").exists()


def test_rm_without_anyone_to_ask_needs_yes(data_dir: Path) -> None:
    done = run_python([*MODULE, "rm", "a-1"], data_dir)
    assert done.code == 2 and "--yes" in done.err and len(done.err.splitlines()) == 1
    assert (data_dir / "a-1").is_dir()


def test_rm_refuses_a_run_that_is_being_trained(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder.open(data_dir, "b"):
        done = ran(capsys, "rm", "a-1", "b", "--yes")
    assert done.code == 4 and "'b' is being trained" in done.err
    assert sorted(path.name for path in data_dir.iterdir()) == ["a-1", "a-2", "b"], "none of them was removed"


def test_rm_stays_inside_the_data_dir(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = data_dir.parent / "outside"
    (data_dir / "b").rename(outside)
    (data_dir / "b").symlink_to(outside)
    for name in ("b", "../outside", str(outside)):
        done = ran(capsys, "rm", name, "--yes")
        assert done.code == 2 and len(done.err.splitlines()) == 1, done
    assert (outside / "status.json").exists()


# ----- plot


def test_plot_writes_png_and_svg_with_seeds_as_one_line(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    done = ran(capsys, "plot", "a-*", "b", "--out", "figures/reward", "--title", "Learning")
    assert done.out == "figures/reward.png\nfigures/reward.svg\n"
    assert Path("figures/reward.png").read_bytes().startswith(b"\x89PNG")
    svg = Path("figures/reward.svg").read_text()
    for text in ("Learning", "overview/reward", "agent steps", "IQM of 2 seeds", "learning_rate=0.004"):
        assert text in svg, text
    told = ran_json(capsys, "plot", "a-*", "b", "--x", "time")
    assert told["files"] == ["overview-reward.png", "overview-reward.svg"]
    seeds, alone = told["panels"][0]["lines"]
    # a-1 has the rewards 1 to 4 and a-2 the rewards 2 to 5, after 2, 4, 6 and 8 seconds.
    assert (seeds["seeds"], seeds["x"], seeds["y"]) == (2, [2.0, 4.0, 6.0, 8.0], [1.5, 2.5, 3.5, 4.5])
    assert (seeds["low"], seeds["high"]) == ([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0])
    assert (alone["label"], alone["seeds"], alone["y"]) == ("b", 1, [0.5] * 4)


def test_plot_separate_and_smooth(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    told = ran_json(capsys, "plot", "a-*", "--separate", "--smooth", "2", "--out", "x.svg")
    assert told["files"] == ["x.svg"]
    assert [line["y"] for line in told["panels"][0]["lines"]] == [[1.0, 1.5, 2.5, 3.5], [2.0, 2.5, 3.5, 4.5]]


def test_plot_without_the_extra_says_what_to_install(data_dir: Path) -> None:
    hidden = data_dir.parent / "hidden"
    hidden.mkdir()
    (hidden / "matplotlib.py").write_text("raise ImportError('no matplotlib here')\n")
    path = Path(f"{hidden}:{REPOSITORY / 'src'}")
    done = run_python([*MODULE, "plot", "b"], data_dir, path)
    assert done.code == 2 and "pip install 'metta-train[plots]'" in done.err and len(done.err.splitlines()) == 1


# ----- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "a-11"], "did you mean a-1?"),
        (["show", "nothing-like-it"], "metta-runs lists them"),
        (["shw", "a-1"], "did you mean show?"),
        (["list", "--jsn"], "did you mean --json?"),
        (["compare", "a-1"], "required: RUN"),
        (["compare", "a-1", "b", "--metric", "overview/rewrad"], "did you mean overview/reward?"),
        (["plot", "b", "--out", "x.gif"], "needs one of .png, .svg, .pdf"),
        (["plot", "b", "--smooth", "0"], "needs 1 or more"),
        (["list", "c*"], "none of the 3 runs"),
        (["rm", "..", "--yes"], "not a valid run name"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    data_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    done = ran(capsys, *arguments)
    assert done.code == 2 and done.out == ""
    assert said in done.err and len(done.err.splitlines()) == 1


def test_a_sweep_is_no_run(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(data_dir, "sweep/0")
    write_run(data_dir, "sweep/1")
    done = ran(capsys, "show", "sweep")
    assert done.code == 2 and "2 runs: name one of sweep/0, sweep/1" in done.err


def test_damaged_files_are_told_in_one_line(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_dir / "a-1" / "config.yaml").write_text("seed: [\n")
    (data_dir / "b" / "metrics.jsonl").write_text("nothing\n")
    for name in ("a-1", "b"):
        done = ran(capsys, "show", name)
        assert done.code == 2 and len(done.err.splitlines()) == 1
    assert ran(capsys, "list").code == 0, "a damaged run does not hide the others"


def test_help_and_version() -> None:
    for arguments, said in ((["--help"], "metta-runs compare mine other"), (["--version"], "metta-runs 0.1.0")):
        done = run_python([*MODULE, *arguments], REPOSITORY)
        assert done.code == 0 and said in done.out
