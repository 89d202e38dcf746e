"""Counts what was tried and what survived, for the table at the end of `make faults`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest


@dataclass
class Tally:
    """Of one fault of the matrix."""

    tried: int = 0
    survived: int = 0
    worst_recovery: float = 0.0
    counted: bool = field(default=False, repr=False)

    def add(self, *, survived: bool, recovery: float = 0.0) -> None:
        """One fault injected; `recovery` seconds from there to a run that has caught up, or to a clean end."""
        self.tried += 1
        self.survived += survived
        self.worst_recovery = max(self.worst_recovery, recovery)
        self.counted = True


_TALLIES: dict[str, Tally] = {}
_OUTCOME = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Of the fault that the test's marker names; a test that counts nothing is one fault itself."""
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "every test here names its fault: @pytest.mark.fault('F1')"
    own = _TALLIES.setdefault(marker.args[0], Tally())
    own.counted = False
    yield own
    if not own.counted:
        own.add(survived=request.node.stash.get(_OUTCOME, False))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the generator of a hook wrapper
    report = yield
    if call.when == "call":
        item.stash[_OUTCOME] = report.passed
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _TALLIES:
        return
    terminalreporter.section("faults")
    terminalreporter.line("| fault | tried | survived | lost | worst recovery |")
    terminalreporter.line("|---|---|---|---|---|")
    for name in sorted(_TALLIES, key=lambda name: (int(name[1:].split()[0]), name)):
        own = _TALLIES[name]
        recovery = f"{own.worst_recovery:.1f} s" if own.worst_recovery else ""
        terminalreporter.line(f"| {name} | {own.tried} | {own.survived} | {own.tried - own.survived} | {recovery} |")
    tried, survived = sum(t.tried for t in _TALLIES.values()), sum(t.survived for t in _TALLIES.values())
    terminalreporter.line(f"| all | {tried} | {survived} | {tried - survived} | |")
