"""Figures of runs for papers and slides; needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.reporting.curves import Band, Curve
from metta_train.reporting.storage import storage_errors
from metta_train.reporting.terminal_chart import tick_label
from metta_train.specs.config_errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
SUFFIXES = (".png", ".svg")
_MAX_COLUMNS = 3
_PANEL = (5.5, 3.6)  # inches
_DPI = 150


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: a run, or several seeds of one setting."""

    label: str
    values: Curve | Band
    faint: Curve | None = None  # the unsmoothed curve behind it


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric."""

    title: str
    lines: tuple[Line, ...]


def write_figure(
    panels: Sequence[Panel], files: Sequence[Path], *, x_title: str, title: str | None = None
) -> tuple[Path, ...]:
    """Draw the panels beside each other and write every file.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: a file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"plots need matplotlib, which is not installed ({error}): pip install 'metta-train[plots]'"
        ) from error
    columns = min(_MAX_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    # Texts stay texts in SVG, and the same curves give the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "metta-train", "font.size": 9}):
        figure = Figure(figsize=(columns * _PANEL[0], rows * _PANEL[1]), layout="constrained")
        if title:
            figure.suptitle(title)
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, index + 1)
            _draw(axes, panel, x_title)
        for file in files:
            with storage_errors("write", file):
                file.parent.mkdir(parents=True, exist_ok=True)
                metadata = {"Date": None} if file.suffix == ".svg" else None
                figure.savefig(file, dpi=_DPI, metadata=metadata)
    return tuple(files)


def _draw(axes: Axes, panel: Panel, x_title: str) -> None:
    for index, line in enumerate(panel.lines):
        colour = COLOURS[index % len(COLOURS)]
        style = "-" if index < len(COLOURS) else "--"
        values = line.values
        if isinstance(values, Band):
            label = f"{line.label} (IQM of {values.count} seeds, 95 % interval)"
            axes.plot(values.x, values.iqm, color=colour, linestyle=style, linewidth=1.8, label=label)
            axes.fill_between(values.x, values.low, values.high, color=colour, alpha=0.2, linewidth=0)
            continue
        if line.faint is not None:
            axes.plot(line.faint.x, line.faint.y, color=colour, linewidth=0.5, alpha=0.35)
        axes.plot(values.x, values.y, color=colour, linestyle=style, linewidth=1.5, label=line.label)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(x_title)
    axes.xaxis.set_major_formatter(lambda value, _: tick_label(value, axes.xaxis.get_majorticklocs().tolist()))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, linewidth=0.3, alpha=0.5)
    if panel.lines:
        axes.legend(fontsize=8, frameon=False)
