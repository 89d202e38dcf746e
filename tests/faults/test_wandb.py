"""F14: wandb in its real online mode, and a server that does not do its part."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil
import pytest

from tests.fakes.wandb_servers import answering, refusing, silent, working
from tests.faults.conftest import Tally
from tests.faults.runs import CARTPOLE, Ended, Run, assert_same_run, lines

ARGUMENTS = [argument for argument in CARTPOLE if argument != "wandb=off"]
END = 35.0  # seconds that the end of a run may wait for wandb
TURNS = 40  # of a second, for each of two runs


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wandb")
    assert Run(path, [*ARGUMENTS, "wandb=off", "run=whole"]).wait().code == 0
    return path


def online(data_dir: Path, run: str, address: str, *more: str) -> Run:
    environ = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address, "HOME": str(data_dir)}
    return Run(data_dir, [*ARGUMENTS, "wandb=online", f"run={run}", *more], environ=environ)


def assert_offline_and_complete(data_dir: Path, run: str, ended: Ended) -> None:
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert_same_run(data_dir, run, "whole")
    assert list((data_dir / run / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.slow
@pytest.mark.fault("F14 wandb: silent server")
def test_a_server_that_accepts_and_never_answers_costs_no_more_than_seconds(data_dir: Path, tally: Tally) -> None:
    without = Run(data_dir, [*ARGUMENTS, "wandb=off", "run=without"]).wait()
    with silent() as address:
        run = online(data_dir, "silent", address)
        ended = run.wait()
    assert "does not answer (timed out); wandb reports offline" in ended.err
    assert_offline_and_complete(data_dir, "silent", ended)
    assert ended.seconds < without.seconds + 20.0
    run.assert_nothing_left(seconds=15.0)
    tally.add(survived=True, recovery=max(0.0, ended.seconds - without.seconds))


@pytest.mark.slow
@pytest.mark.fault("F14 wandb: refused, unknown host, no answer to a start, 500, wrong key")
@pytest.mark.parametrize(
    ("name", "server", "words"),
    [
        ("refused", refusing, "does not answer"),
        ("unknown-host", lambda: nullcontext("http://wandb.invalid"), "does not answer"),
        ("no-answer", lambda: answering(None), "wandb does not start online"),
        ("broken", lambda: answering(500), "wandb does not start online"),
        ("wrong-key", lambda: answering(401), "wandb does not start online"),
    ],
)
def test_other_servers_are_given_up_too(
    data_dir: Path, name: str, server: Callable[[], AbstractContextManager[str]], words: str, tally: Tally
) -> None:
    without = Run(data_dir, [*ARGUMENTS, "wandb=off", f"run={name}-without"]).wait()
    with server() as address:
        run = online(data_dir, name, address)
        ended = run.wait()
        run.assert_nothing_left(seconds=15.0)
    assert words in ended.err
    assert_offline_and_complete(data_dir, name, ended)
    assert ended.seconds < without.seconds + END
    tally.add(survived=True, recovery=max(0.0, ended.seconds - without.seconds))


@pytest.mark.slow
@pytest.mark.fault("F14 wandb: server dies during the run")
def test_a_server_that_dies_in_the_middle_holds_nothing(data_dir: Path, tally: Tally) -> None:
    length = "trainer.total_timesteps=25600"
    without = Run(data_dir, [*ARGUMENTS, "wandb=off", "run=long", length]).wait()
    with working() as server:
        run = online(data_dir, "dies", server.address, length)
        run.wait_until(server.streamed.is_set)
        server.stalled.set()
        ended = run.wait()
        run.assert_nothing_left(seconds=15.0)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert lines(data_dir, "dies") == 200
    assert_same_run(data_dir, "dies", "long")
    assert "`wandb sync` on the folder below wandb/ uploads the rest" in ended.err.replace("\n", " ")
    assert ended.seconds < without.seconds + END
    tally.add(survived=True, recovery=max(0.0, ended.seconds - without.seconds))


@pytest.mark.slow
@pytest.mark.fault("F14 wandb: its own process is killed")
def test_the_death_of_the_process_of_wandb_is_one_warning(data_dir: Path) -> None:
    length = "trainer.total_timesteps=12800"
    run = Run(data_dir, [*ARGUMENTS, "wandb=offline", "run=killed", length])
    run.wait_until(lambda: lines(data_dir, "killed") >= 5 and bool(services(run)))
    run.wait_until(lambda: bool(list((data_dir / "killed" / "wandb").glob("offline-run-*/run-*.wandb"))))
    for service in services(run):
        service.kill()
    ended = run.wait()
    assert ended.code == 0, ended.err
    assert "wandb stopped reporting" in ended.err and "metrics.jsonl stays complete" in ended.err
    assert "Traceback" not in ended.err, ended.err
    assert lines(data_dir, "killed") == 100
    run.assert_nothing_left(seconds=15.0)


def services(run: Run) -> list[psutil.Process]:
    children = psutil.Process(run.process.pid).children(recursive=True)
    return [child for child in children if "wandb-core" in child.name()]


@pytest.mark.slow
@pytest.mark.fault("F14 wandb: speed beside a silent server")
def test_training_is_as_fast_as_without_wandb(data_dir: Path) -> None:
    """Two runs take turns, so that neither is in the way of the other and what else the machine does falls on both.

    wandb.log costs the same for every epoch, so the epochs are not as short as in other tests.
    """
    long = ("trainer.total_timesteps=1000000000", "trainer.batch_size=512")
    done: dict[str, list[int]] = {"fast-off": [], "fast-silent": []}
    with silent() as address:
        runs = {
            "fast-off": Run(data_dir, [*ARGUMENTS, "wandb=off", "run=fast-off", *long]),
            "fast-silent": online(data_dir, "fast-silent", address, *long),
        }
        try:
            for name, run in runs.items():
                run.wait_until(lambda name=name: lines(data_dir, name) >= 1)
            runs["fast-silent"].wait_until(lambda: "wandb reports offline" in runs["fast-silent"].err())
            # The end of the attempt and the start of the offline run cost a second, once, whatever a run's length.
            begun = lines(data_dir, "fast-silent")
            runs["fast-silent"].wait_until(lambda: lines(data_dir, "fast-silent") >= begun + 10)
            for run in runs.values():
                run.kill(signal.SIGSTOP)
            for turn in range(TURNS):
                for name in sorted(runs, reverse=turn % 2 == 0):
                    before = lines(data_dir, name)
                    runs[name].kill(signal.SIGCONT)
                    time.sleep(1.0)
                    runs[name].kill(signal.SIGSTOP)
                    done[name].append(lines(data_dir, name) - before)
        finally:
            for run in runs.values():
                run.kill()
                run.wait()
    epochs = {name: sum(counts) for name, counts in done.items()}
    print(f"epochs in {TURNS} turns: {epochs}")
    assert epochs["fast-off"] > 50
    # The aim is 0.98. Turns of a second on a machine with other work differ by more than that.
    assert epochs["fast-silent"] > 0.95 * epochs["fast-off"], done
