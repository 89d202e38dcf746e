"""What `metta-parity` says of two policies, on the terminal and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from metta_train.policies.parity.findings import Section

PLAIN_WIDTH = 140  # columns where the output is no terminal
MAX_FINDINGS = 8  # per section, in the terminal; JSON has all
MAX_CONSEQUENCES = 2  # of the sections behind a forward pass that differs, whose findings mostly follow from it


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What was found; `stopped` says why it ends early."""

    titles: tuple[str, str]
    environment: str
    device: str
    sections: tuple[Section, ...]
    stopped: str | None

    @property
    def holds(self) -> bool:
        return self.stopped is None and all(section.holds for section in self.sections)

    def plain(self) -> dict[str, Any]:
        """For JSON; infinity, which JSON does not have, is the text "inf"."""
        return {
            "reference": self.titles[0],
            "candidate": self.titles[1],
            "environment": self.environment,
            "device": self.device,
            "holds": self.holds,
            "stopped": self.stopped,
            "sections": [
                _plain({**asdict(section), "holds": section.holds, "largest_difference": section.largest_difference})
                for section in self.sections
            ],
        }


def _plain(value: Any) -> Any:  # noqa: ANN401  # any plain data
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def show(report: ParityReport, *, verbose: bool) -> None:
    """Print it; `verbose` with every measurement."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    console.print(Text(f"{report.titles[0]} against {report.titles[1]}, {report.environment}, {report.device}"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("section", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("allowed", justify="right", no_wrap=True)
    table.add_column("compared")
    for section in report.sections:
        verdict = Text("equal", "green") if section.holds else Text("DIFFERENT", "bold red")
        table.add_row(
            section.name, verdict, f"{section.largest_difference:.3g}", f"{section.tolerance:.3g}", section.summary
        )
    console.print(table)
    limit = MAX_FINDINGS
    for section in report.sections:
        if not section.holds:
            _show_findings(console, section, limit)
            limit = MAX_CONSEQUENCES if section.name == "forward" else limit
        if verbose or (section.name == "forward" and not section.holds):
            _show_measurements(console, section, everything=verbose)


def _show_findings(console: Console, section: Section, limit: int) -> None:
    console.print(Text(f"\n{section.name}", "bold"))
    for finding in section.findings[:limit]:
        console.print(Text(f"  {finding.subject}: ", "bold") + Text(finding.message))
        for number, cause in enumerate(finding.causes):
            label = "likely cause" if number == 0 else "or"
            console.print(Text(f"      {label}: {cause.text}", "yellow"))
        if section.name == "forward" and not finding.causes:
            console.print(Text("      no usual mistake explains it", "yellow"))
    if len(section.findings) > limit:
        console.print(f"  and {len(section.findings) - limit} more (--json has all)")


def _show_measurements(console: Console, section: Section, *, everything: bool) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column("what each layer gives" if section.name == "forward" else section.name)
    table.add_column("", justify="right")
    table.add_column("")
    for measurement in section.measurements:
        if not everything and "," in measurement.subject:
            continue  # one line per scenario
        number = "" if measurement.difference is None else f"{measurement.difference:.3g}"
        table.add_row(measurement.subject, number, measurement.note)
    console.print(table)
