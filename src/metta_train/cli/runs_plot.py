"""`metta-runs plot`: metrics of runs as a figure."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from metta_train.cli.arguments import data_dir_of
from metta_train.cli.exit_codes import DONE
from metta_train.reporting.curves import X_AXES, Curve, Metrics, aggregate, curve, read_epochs, wanted_metrics
from metta_train.reporting.metric_names import REWARD
from metta_train.reporting.plots import SUFFIXES, Line, Panel, write_figure
from metta_train.reporting.results import print_json
from metta_train.specs.config_errors import ConfigError
from metta_train.training.run_catalog import find_matching, read_run_config, same_settings, setting_label
from metta_train.training.run_paths import RunPaths

MAX_LABEL = 60  # characters of what sets a group of runs apart; longer, their common name is shown
FORMATS = (*SUFFIXES, ".pdf")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command, on a parser of its own."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="patterns like 'sweep/*' work")
    parser.add_argument(
        "--metric", action="append", metavar="NAME", help=f"default {REWARD}; may be repeated; patterns like 'losses/*'"
    )
    parser.add_argument("--x", choices=sorted(X_AXES), default="steps", help="default steps")
    parser.add_argument("--out", type=Path, metavar="FILE", help="with a suffix that file; else .png and .svg")
    parser.add_argument("--separate", action="store_true", help="one line for each run")
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="running mean over N epochs; default 1")
    parser.add_argument("--title", metavar="TEXT")


def plot(options: argparse.Namespace) -> int:
    """Run the command; the result is the exit code."""
    if options.smooth < 1:
        raise ConfigError(f"--smooth {options.smooth}: needs 1 or more")
    found = find_matching(data_dir_of(options), options.runs)
    epochs = {paths.run: read_epochs(paths.metrics) for paths in found}
    names = wanted_metrics(options.metric, list(epochs.values()))
    groups = _groups(found, separate=options.separate)
    panels = tuple(_panel(name, groups, epochs, X_AXES[options.x], options.smooth) for name in names)
    empty = [panel.title for panel in panels if not panel.lines]
    if empty:
        raise ConfigError(f"metric {empty[0]}: these runs have no values of it yet")
    files = _files(options.out, names)
    titles = {"steps": "agent steps", "time": "seconds", "epoch": "epochs"}
    write_figure(panels, files, x_title=titles[options.x], title=options.title)
    if options.json:
        print_json({"files": files, "panels": [_plain_panel(panel) for panel in panels]})
    else:
        for file in files:
            print(file)
    return DONE


def _groups(found: Sequence[RunPaths], *, separate: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Label and runs of each line."""
    if separate or len(found) == 1:
        return [(paths.run, (paths.run,)) for paths in found]
    configs = {paths.run: read_run_config(paths) for paths in found}
    groups = same_settings(configs)
    firsts = [configs[names[0]] for names in groups]
    labels: list[tuple[str, tuple[str, ...]]] = []
    for number, names in enumerate(groups):
        apart = setting_label(firsts[number], firsts[:number] + firsts[number + 1 :])
        labels.append((apart if len(names) > 1 and 0 < len(apart) <= MAX_LABEL else _common_name(names), names))
    return labels


def _common_name(names: Sequence[str]) -> str:
    """`fast-*` for fast-1 and fast-2."""
    if len(names) == 1:
        return names[0]
    first, last = min(names), max(names)  # what these two share, all of them share
    shared = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return f"{''.join(shared)}*"


def _panel(
    metric: str,
    groups: Sequence[tuple[str, tuple[str, ...]]],
    epochs: dict[str, tuple[Metrics, ...]],
    x: str,
    smooth: int,
) -> Panel:
    lines = []
    for label, names in groups:
        curves = [c for c in (curve(epochs[name], metric, x) for name in names) if len(c.x)]
        if len(curves) > 1:
            lines.append(Line(label, aggregate([c.smoothed(smooth) for c in curves])))
        elif curves:
            lines.append(Line(label, curves[0].smoothed(smooth), faint=curves[0] if smooth > 1 else None))
    return Panel(metric, tuple(lines))


def _plain_panel(panel: Panel) -> dict[str, object]:
    lines = []
    for line in panel.lines:
        values = line.values
        if isinstance(values, Curve):
            lines.append({"label": line.label, "seeds": 1, **values.plain()})
        else:
            lines.append(
                {
                    "label": line.label,
                    "seeds": values.count,
                    "x": values.x.tolist(),
                    "y": values.iqm.tolist(),
                    "low": values.low.tolist(),
                    "high": values.high.tolist(),
                }
            )
    return {"metric": panel.title, "lines": lines}


def _files(out: Path | None, names: Sequence[str]) -> tuple[Path, ...]:
    base = Path(names[0].replace("/", "-")) if out is None else out
    if out is not None and out.suffix:
        if out.suffix not in FORMATS:
            raise ConfigError(f"--out {out}: needs one of {', '.join(FORMATS)}, or no suffix for .png and .svg")
        return (out,)
    return tuple(base.with_name(f"{base.name}{suffix}") for suffix in SUFFIXES)
