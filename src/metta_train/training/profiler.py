"""Torch profiler traces of single epochs, for `chrome://tracing` or Perfetto."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@contextmanager
def profiled_epoch(folder: Path, epoch: int, interval_epochs: int) -> Iterator[None]:
    """Trace this epoch into `folder/epoch-<6 digits>.json.gz` if it is due; interval 0 never traces."""
    if interval_epochs == 0 or epoch % interval_epochs:
        yield
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    # acc_events: there is one cycle, and newer versions of torch warn of events of earlier ones.
    with profile(activities=activities, record_shapes=True, acc_events=True) as trace:
        yield
    folder.mkdir(parents=True, exist_ok=True)
    trace.export_chrome_trace(str(folder / f"epoch-{epoch:06d}.json.gz"))
