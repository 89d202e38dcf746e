from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from metta_train.reporting.console import LiveConsole, PlainConsole, console_reporter, plain_line
from metta_train.reporting.dashboard import dashboard
from metta_train.reporting.reporter import NextCommand, Reporter, RunHeader, RunOutcome
from metta_train.reporting.run_view import RunView, SavedCheckpoint
from metta_train.specs.records import EnvironmentScores, Estimate, EvaluationScores, ScoreSummary
from tests.fakes.epoch_records import episode, epoch_record

HEADER = RunHeader(
    run="my-run",
    folder=Path("train_dir/my-run"),
    agent="fast",
    environment="forage",
    device="cpu",
    total_parameters=574_978,
    total_timesteps=10_000,
    plan=("8 envs in 2 workers",),
)
OUTCOME = RunOutcome(
    state="done",
    epoch=3,
    agent_step=3000,
    elapsed=6.0,
    checkpoint=Path("train_dir/my-run/checkpoints/step-000000003000"),
    next_commands=(NextCommand("continue the run", "metta-train agent=fast run=my-run " + "x=1 " * 30 + "end=1"),),
)


def a_view() -> RunView:
    view = RunView(HEADER)
    for epoch, reward in enumerate((0.1, 0.2, 0.4), start=1):
        view.add(epoch_record(epoch, episodes=[episode(reward)] * 2))
    view.checkpoint = SavedCheckpoint(Path("c/step-000000002000"), 2, 2000)
    return view


def console(width: int = 80, *, terminal: bool = True) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(
        file=text, width=width, force_terminal=terminal, color_system=None, highlight=False, _environ={}
    ), text


def drawn(view: RunView, width: int) -> list[str]:
    target, text = console(width)
    target.print(dashboard(view, width, elapsed=6.0, since_checkpoint=4.0))
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in text.getvalue().splitlines()]


def test_dashboard_at_80_columns() -> None:
    assert drawn(a_view(), 80) == [
        "╭─ my-run · epoch 3 ───────────────────────────────────────────────────────────╮",
        "│                                                                              │",
        "│  ━━━━━━━━━━━━━━━━━━━───────────────────────────────────────────────   30.0%  │",
        "│  3,000 of 10,000 steps           500 steps/s     6 s elapsed      14 s left  │",
        "│                                                                              │",
        "│  reward      0.2333    ▁▃█   best 0.4000                                     │",
        "│                                                                              │",
        "│  policy loss   -0.0125            environment ━━━━──────  40%                │",
        "│  value loss     0.5000            inference   ━━────────  20%                │",
        "│  entropy        1.2500            training    ━━━───────  30%                │",
        "│  KL             0.0030            other       ━─────────  10%                │",
        "│                                                                              │",
        "│  checkpoint  step-000000002000  epoch 2, 4 s ago                             │",
        "│                                                                              │",
        "╰──────────────────────────────────────────────────────── fast · forage · cpu ─╯",
    ]


def test_dashboard_at_200_columns_has_three_columns_and_stays_together() -> None:
    lines = drawn(a_view(), 200)
    assert {len(line) for line in lines} == {116}
    text = "\n".join(lines)
    for word in (
        "learning rate",
        "explained variance",
        "policy loss",
        "environment",
        "inference",
        "checkpoint",
        "30.0%",
    ):
        assert word in text
    (row,) = [line for line in lines if "policy loss" in line]
    assert "learning rate" in row and "environment" in row


@pytest.mark.parametrize("width", [60, 80, 99, 100, 116, 200])
def test_every_width_has_straight_borders_and_the_same_height(width: int) -> None:
    lines = drawn(a_view(), width)
    assert {len(line) for line in lines} == {min(width, 116)}
    assert len(lines) == 15


def test_counters_stay_apart_on_a_narrow_terminal() -> None:
    view = RunView(replace(HEADER, total_timesteps=200_000))
    view.add(epoch_record(14))
    (line,) = [line for line in drawn(view, 60) if "left" in line]
    assert re.search(r"steps +500 steps/s +6:\d\d left", line), line


def test_dashboard_before_the_first_epoch() -> None:
    text = "\n".join(drawn(RunView(HEADER), 80))
    assert "no episode has ended yet" in text
    assert "none yet" in text
    assert "0.0%" in text


def test_dashboard_of_a_huge_run_fits_into_80_columns() -> None:
    view = RunView(
        RunHeader(
            run="x" * 128,
            folder=Path("x"),
            agent="fast",
            environment="arena" * 10,
            device="cuda:0 (NVIDIA H200)",
            total_parameters=1,
            total_timesteps=50_000_000_000,
        )
    )
    view.add(epoch_record(10_000, steps=524_288, seconds=0.5, episodes=[episode(-123456.0)]))
    lines = drawn(view, 80)
    assert {len(line) for line in lines} == {80}
    assert len(lines) == 15
    text = "\n".join(lines)
    for word in ("5,243 M of 50,000 M steps", "1,048,576 steps/s", "11:51:24 left"):
        assert word in text


def test_the_plain_line_is_ascii_and_says_the_essentials() -> None:
    line = plain_line(a_view())
    assert line == (
        "epoch 3 | step 3,000 of 10,000 (30.0%) | 500 steps/s | 14 s left | reward 0.2333 | entropy 1.2500 | "
        "KL 0.0030 | "
        "env 40% inference 20% train 30% other 10%"
    )
    assert line.isascii()


def test_the_plain_line_of_a_job_names_it() -> None:
    view = RunView(replace(HEADER, run="sweep/seed-1"))
    view.add(epoch_record(1))
    assert plain_line(view).startswith("sweep/seed-1 epoch 1 | ")


def run(reporter: Reporter, epochs: int = 3, state: str = "done") -> None:
    reporter.start(HEADER)
    for epoch in range(1, epochs + 1):
        reporter.record(epoch_record(epoch, episodes=[episode(0.25)]))
    reporter.checkpoint_saved(Path("c/step-000000003000"), 3, 3000)
    reporter.finish(OUTCOME)


def test_plain_console_prints_the_first_the_due_and_the_last_epoch() -> None:
    progress, lines = console(terminal=False)
    results, _ = console(terminal=False)
    now = iter([0.0, 1.0, 1.0, 5.0, 11.5, 11.5, 12.0])  # start; epoch 1 (due), 2 (not), 3 (due), 4 (not)
    reporter = PlainConsole(progress, results, clock=lambda: next(now))
    run(reporter, epochs=4)
    shown = [line.split(" |")[0] for line in lines.getvalue().splitlines()]
    assert shown == [
        "my-run: fast on forage, 574,978 parameters, cpu",
        "8 envs in 2 workers",
        "epoch 1",
        "epoch 3",
        "epoch 4",
    ]


def test_the_summary_goes_to_the_results_and_commands_are_never_wrapped() -> None:
    for kind in (PlainConsole, LiveConsole):
        progress, progress_text = console()
        results, text = console(width=40, terminal=False)
        run(kind(progress, results))
        assert text.getvalue().splitlines() == [
            "done: my-run at 3,000 agent steps, epoch 3, after 6 s (500 steps/s)",
            "reward      0.2500 over the last 3 episodes, best epoch 0.2500",
            "run folder  train_dir/my-run",
            "checkpoint  train_dir/my-run/checkpoints/step-000000003000",
            "to continue the run:",
            f"  {OUTCOME.next_commands[0].command}",
        ]
        assert "to continue" not in progress_text.getvalue()


def test_a_failure_is_told_with_its_reason() -> None:
    results, text = console(width=40, terminal=False)
    reporter = PlainConsole(console(terminal=False)[0], results)
    reporter.start(HEADER)
    reporter.finish(RunOutcome("failed", 0, 0, 0.0, message="env worker 3 died (killed by signal 9)"))
    assert text.getvalue().splitlines()[:2] == [
        "failed: my-run at 0 agent steps, epoch 0, after 0 s (no time at all)",
        "env worker 3 died (killed by signal 9)",
    ]


def test_live_console_draws_on_the_terminal_and_gives_it_back() -> None:
    progress, text = console()
    run(LiveConsole(progress, console(terminal=False)[0]))
    assert "my-run" in text.getvalue()
    assert text.getvalue().count("\x1b[?25l") == text.getvalue().count("\x1b[?25h") == 1  # cursor hidden, cursor shown


def test_markup_in_names_is_shown_as_it_is() -> None:
    results, text = console(terminal=False)
    reporter = PlainConsole(console(terminal=False)[0], results)
    reporter.start(HEADER)
    reporter.finish(RunOutcome("failed", 0, 0, 1.0, message="got [red]x[/red], needed [/]"))
    assert "got [red]x[/red], needed [/]" in text.getvalue()


def kind_of(width: int = 80, *, terminal: bool = True, **environ: str) -> type[Reporter]:
    results = console()[0]
    return type(console_reporter(console(width, terminal=terminal)[0], results, environ))


def test_the_dashboard_is_only_for_a_terminal_that_someone_watches() -> None:
    assert kind_of() is LiveConsole
    assert kind_of(terminal=False) is PlainConsole
    assert kind_of(width=50) is PlainConsole
    assert kind_of(CI="true") is PlainConsole
    assert kind_of(SLURM_JOB_ID="17") is PlainConsole
    dumb = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "dumb"})
    assert type(console_reporter(dumb, console()[0], {})) is PlainConsole


def test_no_color_is_respected() -> None:
    def codes(environ: dict[str, str]) -> set[str]:
        text = io.StringIO()
        target = Console(file=text, width=80, force_terminal=True, color_system="standard", _environ=environ)
        target.print(dashboard(a_view(), 80, elapsed=1.0))
        return set(re.findall(r"\x1b\[[0-9;]*m", text.getvalue()))

    colored = re.compile(r"\x1b\[(?:\d;)*3[0-7]m")
    assert any(colored.fullmatch(code) for code in codes({}))
    assert not any(colored.fullmatch(code) for code in codes({"NO_COLOR": "1"}))


def some_scores(epoch: int, score: float, *environments: str) -> EvaluationScores:
    value = Estimate(score, score - 0.125, score + 0.125)
    told = ScoreSummary(4, value, value, value, 1.0, 0.0, 9.0)
    found = tuple(EnvironmentScores(environment, told, 30.0) for environment in environments)
    return EvaluationScores("forage", score, 4 * len(found), epoch, found)


def test_an_evaluation_is_one_line_when_it_happens_and_part_of_the_summary() -> None:
    progress, progress_text = console(80, terminal=False)
    results, results_text = console(80, terminal=False)
    reporter = PlainConsole(progress, results, interval=1e9, clock=lambda: 0.0)
    reporter.start(HEADER)
    first, second = some_scores(1, 0.5, "easy", "hard"), some_scores(2, 0.25, "easy", "hard")
    for epoch, scores in enumerate([first, second, second], start=1):
        reporter.record(epoch_record(epoch, evaluation=scores))
    reporter.finish(OUTCOME)
    told = [line for line in progress_text.getvalue().splitlines() if line.startswith("evaluation")]
    assert told == [
        "evaluation at epoch 1: score 0.5000 | IQM, 95 % interval, 4 episodes each: "
        "easy 0.5000 (0.3750 to 0.6250), hard 0.5000 (0.3750 to 0.6250)",
        "evaluation at epoch 2: score 0.2500 | IQM, 95 % interval, 4 episodes each: "
        "easy 0.2500 (0.1250 to 0.3750), hard 0.2500 (0.1250 to 0.3750)",
    ]
    assert "evaluation  0.2500 at epoch 2, best 0.5000 at epoch 1" in results_text.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 200])
def test_the_dashboard_has_the_last_evaluation_and_the_best(width: int) -> None:
    view = a_view()
    for epoch, score in ((4, 0.5), (5, 0.25)):
        view.add(epoch_record(epoch, evaluation=some_scores(epoch, score, "easy", "hard", *("longer" * 3,) * 3)))
    (line,) = [line for line in drawn(view, width) if "evaluation" in line]
    assert "evaluation  0.2500     epoch 5   best 0.5000 at epoch 4   easy 0.2500" in line
    assert len(line) == min(width, 116)
