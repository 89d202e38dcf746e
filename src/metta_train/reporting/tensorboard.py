"""Event files for TensorBoard, with the metric names and the step axis of `metrics.jsonl`; needs the extra."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import IO, Any

from metta_train.reporting.metric_names import metrics_of
from metta_train.reporting.reporter import Reporter, RunHeader, RunOutcome
from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError
from metta_train.specs.records import EpochRecord

FOLDER = "tensorboard"  # in the run folder

_FILES = "events.out.tfevents.*"
_HEAD = struct.Struct("<QI")  # length of the event, checksum of the length
_TAIL_BYTES = 4  # checksum of the event
_MAX_EVENT_BYTES = 16 << 20


def require_tensorboard() -> None:
    """Raise a ConfigError if the package is not installed."""
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tensorboard=true needs the package tensorboard, which is not installed ({error}): "
            "pip install 'metta-train[tensorboard]'"
        ) from error


class TensorBoardReporter(Reporter):
    """One event per epoch, in a new file for each start.

    When a run goes on from a checkpoint, events beyond its agent step are removed from the files, and a TensorBoard
    that has shown them already is told to forget them.

    Args:
        folder: of the event files; made when missing.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def start(self, header: RunHeader) -> None:
        with storage_errors("write", self._folder):
            self._folder.mkdir(exist_ok=True)
        self._open(header.start_agent_step)

    def record(self, record: EpochRecord) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in metrics_of(record).items()]
        self._write(wall_time=time.time(), step=record.agent_step, summary={"value": values})

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        pass

    def rolled_back(self, agent_step: int) -> None:
        self._close()
        self._open(agent_step)

    def finish(self, outcome: RunOutcome) -> None:
        self._close()

    def _open(self, agent_step: int) -> None:
        with storage_errors("write", self._folder):
            for path in sorted(self._folder.glob(_FILES)):
                truncate_events(path, agent_step)
            # TensorBoard reads files in the order of their names.
            seconds, rest = divmod(time.time_ns(), 10**9)
            path = self._folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}"
            self._file = path.open("xb", buffering=0)
        self._write(wall_time=time.time(), file_version="brain.Event:2")
        if agent_step:
            self._write(wall_time=time.time(), step=agent_step + 1, session_log={"status": "START"})

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self, **fields: object) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None, "written before start()"
        with storage_errors("write", self._folder):
            RecordWriter(self._file).write(_event_type()(**fields).SerializeToString())


def truncate_events(path: Path, agent_step: int) -> None:
    """Cut an event file before the first event that is torn or lies beyond `agent_step`; remove it if none is left."""
    from google.protobuf.message import DecodeError

    keep, kept_summaries = 0, 0
    with path.open("r+b") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, _ = _HEAD.unpack(head)
            content = file.read(length) if length <= _MAX_EVENT_BYTES else b""
            if len(content) < length or len(file.read(_TAIL_BYTES)) < _TAIL_BYTES:
                break
            try:
                event = _event_type().FromString(content)
            except DecodeError:
                break
            if event.HasField("summary"):
                if event.step > agent_step:
                    break
                kept_summaries += 1
            keep = file.tell()
        file.truncate(keep)
    if not kept_summaries:
        path.unlink()


def _event_type() -> Any:  # noqa: ANN401  # protobuf makes the class at run time
    from tensorboard.compat.proto import event_pb2

    return event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
