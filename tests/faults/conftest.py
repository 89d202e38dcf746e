"""Counts what was tried and what survived, for the table at the end of `make faults`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults.runs import ENDINGS


@dataclass
class Tally:
    """Of one fault of the matrix."""

    tried: int = 0
    survived: int = 0
    worst_recovery: float = 0.0

    @property
    def lost(self) -> int:
        return self.tried - self.survived

    def add(self, *, survived: bool, recovery: float = 0.0) -> None:
        """One fault injected; `recovery` seconds from there to a run that has caught up, or to a clean end."""
        self.tried += 1
        self.survived += survived
        self.worst_recovery = max(self.worst_recovery, recovery)


_TALLIES: dict[str, Tally] = {}
_OUTCOME = pytest.StashKey[str]()


@pytest.fixture(autouse=True)
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Of the fault that the test's marker names.

    A test that counts nothing is one fault itself. One that fails has lost at least one, whatever it counted before.
    A test that measures no recovery took at most as long as the slowest of its processes after its signal or start.
    """
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "every test here names its fault: @pytest.mark.fault('F1')"
    own = _TALLIES.setdefault(marker.args[0], Tally())
    tried, lost, worst = own.tried, own.lost, own.worst_recovery
    ENDINGS.clear()
    yield own
    outcome = request.node.stash.get(_OUTCOME, "failed")
    if (outcome == "passed" and own.tried == tried) or (outcome == "failed" and own.lost == lost):
        own.add(survived=outcome == "passed")
    if outcome == "passed" and own.worst_recovery == worst:
        own.worst_recovery = max(worst, *ENDINGS, 0.0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the generator of a hook wrapper
    report = yield
    if call.when == "call":
        item.stash[_OUTCOME] = report.outcome
    elif call.when == "setup" and report.failed:  # it broke before its fault could be counted
        marker = item.get_closest_marker("fault")
        _TALLIES.setdefault(marker.args[0] if marker else "F0 unnamed", Tally()).add(survived=False)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tallies = {name: own for name, own in _TALLIES.items() if own.tried}
    if not tallies:
        return
    terminalreporter.section("faults")
    terminalreporter.line("| fault | tried | survived | lost | worst recovery |")
    terminalreporter.line("|---|---|---|---|---|")
    for name, own in sorted(tallies.items(), key=lambda entry: (int(entry[0][1:].split()[0]), entry[0])):
        recovery = f"{own.worst_recovery:.1f} s" if own.worst_recovery else ""
        terminalreporter.line(f"| {name} | {own.tried} | {own.survived} | {own.lost} | {recovery} |")
    tried, survived = sum(own.tried for own in tallies.values()), sum(own.survived for own in tallies.values())
    terminalreporter.line(f"| all | {tried} | {survived} | {tried - survived} | |")
