"""F11, F12: memory, bugs and numbers. F15, F16, F17: two of one name, and clocks that jump."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from metta_train.training.checkpoints import checkpoint_folders, load
from tests.faults.runs import (
    CARTPOLE,
    FAULTY,
    REPOSITORY,
    Run,
    assert_same_run,
    lines,
    metrics,
    newest,
    steps,
    train,
    weights,
)

WRAPPER = ["tests.faults.with_fault"]
SHORT = [*CARTPOLE, "trainer.total_timesteps=1536"]
LONG = "trainer.total_timesteps=1000000000"
SOAK = int(os.environ.get("METTA_TRAIN_SOAK", "90"))  # seconds; hours are asked for by hand


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("failures")
    assert train(path, *SHORT, "run=whole").code == 0
    return path


@pytest.mark.fault("F11 out of memory")
def test_memory_that_runs_out_names_the_knobs(data_dir: Path) -> None:
    run = Run(data_dir, ["out-of-memory:15", *SHORT, "run=memory", "trainer.num_workers=2"], wrapper=WRAPPER)
    ended = run.wait()
    assert ended.code == 1, ended.err
    last = ended.err.splitlines()[-1]
    for knob in ("trainer.max_minibatch_size=64", "trainer.minibatch_size=64", "trainer.batch_size=128", "num_envs=4"):
        assert knob in last
    assert "Traceback" not in ended.err
    run.assert_nothing_left()
    assert steps(data_dir, "memory") == [384]


@pytest.mark.slow
@pytest.mark.fault("F11 a bug of ours")
def test_a_bug_shows_its_traceback_and_leaves_nothing_behind(data_dir: Path) -> None:
    run = Run(data_dir, ["bug:15", *SHORT, "run=bug", "trainer.num_workers=2"], wrapper=WRAPPER)
    ended = run.wait()
    assert ended.code == 1 and "a bug of ours" in ended.err and "Traceback" in ended.err
    run.assert_nothing_left()
    assert train(data_dir, *SHORT, "run=bug", "trainer.num_workers=2").code == 0


@pytest.mark.fault("F12 NaN in a gradient")
def test_a_gradient_that_is_nan_stops_before_the_weights(data_dir: Path) -> None:
    ended = Run(data_dir, ["nan-gradient:15", *SHORT, "run=spoilt"], wrapper=WRAPPER).wait()
    assert ended.code == 7, ended.err
    assert "the gradient of" in ended.err and "Traceback" not in ended.err
    newest(data_dir, "spoilt")
    assert train(data_dir, *SHORT, "run=spoilt").code == 0
    assert_same_run(data_dir, "spoilt", "whole")


@pytest.mark.slow
@pytest.mark.fault("F12 NaN in a gradient")
@pytest.mark.parametrize("answer", ["skip", "rollback"])
def test_other_answers_to_nan(data_dir: Path, answer: str) -> None:
    arguments = ["nan-gradient:26", *SHORT, f"run={answer}", f"trainer.nonfinite={answer}"]
    ended = Run(data_dir, arguments, wrapper=WRAPPER).wait()
    assert ended.code == 0, ended.err
    rows = metrics(data_dir, answer)
    assert [row["metric/agent_step"] for row in rows] == [128.0 * (epoch + 1) for epoch in range(12)]
    if answer == "skip":
        assert sum(row.get("losses/skipped_minibatches", 0) for row in rows) == 1
    else:
        assert "rolled back to agent step 768, with new data (1 of 3)" in ended.err
        assert rows[:6] == metrics(data_dir, "whole")[:6] and rows[6:] != metrics(data_dir, "whole")[6:]
    assert weights(data_dir, answer) != weights(data_dir, "whole")


@pytest.mark.slow
@pytest.mark.fault("F12 NaN reward")
def test_a_reward_that_is_nan_is_named_with_its_environment(data_dir: Path) -> None:
    ended = train(data_dir, *SHORT, f"env.id={FAULTY}", "+env.kwargs.fault=nan_reward", "run=reward")
    assert ended.code == 7, ended.err
    assert "reward is nan in env 0, agent 0, step 3 of 32" in ended.err


@pytest.mark.fault("F13 spike")
def test_rewards_that_jump_are_told_and_the_run_goes_on(data_dir: Path) -> None:
    ended = Run(data_dir, ["spike:11", *SHORT, "run=spike"], wrapper=WRAPPER).wait()
    assert ended.code == 0, ended.err
    assert "epoch 11: the value loss is" in ended.err and "epoch 11: the gradient norm is" in ended.err
    assert "times its running mean; should this come often, try a smaller trainer.optimizer.learning_rate" in ended.err
    rows, whole = metrics(data_dir, "spike"), metrics(data_dir, "whole")
    assert rows[:10] == whole[:10] and len(rows) == len(whole)
    # The metric shows it as it was; what the weights took of it is clipped.
    assert rows[10]["losses/grad_norm"] > 100 * max(row["losses/grad_norm"] for row in rows[:10])
    assert all(value is not None and math.isfinite(value) for row in rows for value in row.values())
    before, after = (load(path).model for path in checkpoint_folders(data_dir / "spike" / "checkpoints")[-2:])
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    rate = rows[0]["hyperparameters/learning_rate"]
    assert 0.0 < moved < 20 * rate  # 12 gradient steps lie between these checkpoints


@pytest.mark.slow
@pytest.mark.fault("F11 its terminal takes nothing more")
@pytest.mark.parametrize("terminal", ["pipe without a reader", "full"])
def test_a_run_outlives_who_reads_it(data_dir: Path, terminal: str) -> None:
    run = terminal.split()[0]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        if terminal == "full":
            target = stack.enter_context(open("/dev/full", "w")).fileno()
        else:
            reader, target = os.pipe()
            os.close(reader)
            stack.callback(os.close, target)
        arguments = [*SHORT, f"run={run}", f"data_dir={data_dir}"]
        process = subprocess.run(
            [sys.executable, "-m", "metta_train", *arguments],
            stdout=target,
            stderr=target,
            env=environ,
            timeout=120,
            check=False,
        )
    assert process.returncode == 0
    assert "console cannot report" in (data_dir / run / "train.log").read_text()
    assert_same_run(data_dir, run, "whole")


@pytest.mark.fault("F15 two runs of one name")
def test_a_second_process_is_refused_and_the_first_does_not_notice(data_dir: Path) -> None:
    first = Run(data_dir, [*CARTPOLE, "run=one", LONG])
    first.wait_until(lambda: lines(data_dir, "one") >= 1)
    second = train(data_dir, *CARTPOLE, "run=one")
    assert second.code == 4, second.err
    assert f"pid {first.process.pid} on" in second.err and second.err.count("\n") == 1
    first.kill()
    first.wait()
    third = Run(data_dir, [*CARTPOLE, "run=one", LONG])  # a crash frees the name
    third.wait_until(lambda: "per epoch" in third.err())
    third.kill(signal.SIGTERM)
    assert third.wait().code == 75


@pytest.mark.slow
@pytest.mark.fault("F16 a name that is taken")
def test_restart_new_and_overwrite(data_dir: Path) -> None:
    for run in ("taken", "kept"):
        assert train(data_dir, *SHORT, f"run={run}").code == 0
    before = weights(data_dir, "kept")
    assert train(data_dir, *SHORT, "run=kept", "seed=8").code == 2
    assert train(data_dir, *SHORT, "run=kept", "seed=8", "restart=new").code == 0
    assert weights(data_dir, "kept") == before != weights(data_dir, "kept-2")
    assert train(data_dir, *SHORT, "run=taken", "seed=8", "restart=overwrite").code == 0
    assert weights(data_dir, "taken") == weights(data_dir, "kept-2")


@pytest.mark.slow
@pytest.mark.fault("F17 clock jumps")
@pytest.mark.parametrize("seconds", [3600, -86400])
def test_a_clock_that_jumps_changes_nothing(data_dir: Path, seconds: int) -> None:
    run = f"clock{abs(seconds)}"
    arguments = [f"clock:{seconds}", *SHORT, f"run={run}", "trainer.num_workers=2", "trainer.async_factor=1"]
    ended = Run(data_dir, arguments, wrapper=WRAPPER).wait()
    assert ended.code == 0, ended.err
    assert_same_run(data_dir, run, "whole")


@pytest.mark.slow
@pytest.mark.timeout(600 + 2 * SOAK)
@pytest.mark.fault("F21 soak")
def test_memory_files_threads_and_children_stay_flat(data_dir: Path) -> None:
    """A checkpoint every epoch; measured after a third and at the end."""
    arguments = [*CARTPOLE, "run=soak", LONG, "trainer.num_workers=2", "trainer.checkpoint.checkpoint_interval=1"]
    run = Run(data_dir, arguments)
    run.wait_until(lambda: lines(data_dir, "soak") >= 10)
    time.sleep(SOAK / 3)
    early = _resources(run)
    time.sleep(SOAK * 2 / 3)
    late = _resources(run)
    run.kill(signal.SIGTERM)
    assert run.wait(30).code == 75
    assert late["files"] == early["files"] and late["threads"] == early["threads"] and late["processes"] == 3
    assert late["memory"] < early["memory"] * 1.05 + 8 * 2**20
    milestones = 500 * 128  # agent steps between those that stay for ever: more on a faster machine
    assert len([step for step in steps(data_dir, "soak") if step % milestones]) <= 4  # the newest, and the best
    assert not [path for path in (data_dir / "soak").rglob("*") if ".tmp" in path.name or ".trash" in path.name]


def _resources(run: Run) -> dict[str, int]:
    folder = Path(f"/proc/{run.process.pid}")
    # The fewest of many looks: a file of the checkpoint that is being written is open for a moment.
    files = []
    for _ in range(50):
        files.append(len(os.listdir(folder / "fd")))
        time.sleep(0.02)
    return {
        "files": min(files),
        "threads": len(os.listdir(folder / "task")),
        "processes": len(run.processes()),
        "memory": int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }
