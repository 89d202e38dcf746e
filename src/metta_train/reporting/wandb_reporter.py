"""Reports to Weights & Biases from a thread of its own: a slow or absent server costs the training nothing."""

from __future__ import annotations

import http.client
import logging
import os
import queue
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from metta_train.reporting.config import DEFAULT_SERVER, WandbConfig, has_wandb_key
from metta_train.reporting.metric_names import (
    AGENT_STEP,
    REWARD_VS_TOTAL_TIME,
    TOTAL_PARAMETERS,
    TOTAL_TIME,
    metrics_of,
)
from metta_train.reporting.redaction import redact_config, redact_text
from metta_train.reporting.reporter import Reporter, RunHeader, RunOutcome
from metta_train.specs.records import EpochRecord

if TYPE_CHECKING:
    import wandb

_QUEUE_LENGTH = 1000  # epochs that may wait for wandb before the newest are left out
_PROBE_TIMEOUT = 5.0  # seconds until a server that does not answer means offline
_INIT_TIMEOUT = 15.0  # seconds until one that answers, but does not let the run in, means offline
_FINISH_TIMEOUT = 30.0  # seconds that the end of a training waits for wandb

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Metrics:
    values: Mapping[str, float]
    agent_step: int
    videos: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class _Upload:
    path: Path
    epoch: int
    agent_step: int
    aliases: tuple[str, ...]  # "latest" is wandb's own


@dataclass(frozen=True, slots=True)
class _End:
    exit_code: int


class WandbReporter(Reporter):
    """One wandb run; every reporter has its own, also several in one process (multirun).

    Nothing here raises or waits: what goes wrong with wandb becomes a warning, and metrics.jsonl stays complete.

    Attributes:
        run_id: of the wandb run; changes once if wandb has to start again offline, so read it when it is needed.

    Args:
        config: project, names and tags.
        mode: "online" falls back to offline when no key is configured or the server does not answer.
        run_id: of the wandb run to go on with; None makes a new one.
        group: used when the config names none, e.g. the sweep of a multirun job.
        upload_interval: epochs between uploads of a checkpoint as an artifact; the last one is uploaded too. 0 = never.
        is_best: whether a checkpoint is the best of its run; it gets the alias "best".
        finish_timeout: seconds that `finish` waits at most.
    """

    name = "wandb"

    def __init__(
        self,
        config: WandbConfig,
        *,
        mode: Literal["online", "offline"],
        run_id: str | None = None,
        group: str | None = None,
        upload_interval: int = 0,
        is_best: Callable[[Path], bool] = lambda _: False,
        finish_timeout: float = _FINISH_TIMEOUT,
    ) -> None:
        # wandb's own choice of an id would reuse the id of an earlier run of the same process.
        self.run_id = run_id or secrets.token_hex(4)
        self._config = config
        self._mode: Literal["online", "offline"] = mode
        self._group = config.group or group
        self._upload_interval = upload_interval
        self._is_best = is_best
        self._finish_timeout = finish_timeout
        self._videos: dict[str, Path] = {}
        self._uploaded_epoch = 0
        self._last_checkpoint: _Upload | None = None
        self._tasks: queue.Queue[_Metrics | _Upload | _End] = queue.Queue(_QUEUE_LENGTH)
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._left_out = 0

    def start(self, header: RunHeader) -> None:
        self._uploaded_epoch = header.start_epoch
        self._thread = threading.Thread(target=self._work, args=(header,), name="wandb-reporter", daemon=True)
        self._thread.start()

    def record(self, record: EpochRecord) -> None:
        videos, self._videos = self._videos, {}
        self._put(_Metrics(metrics_of(record), record.agent_step, videos))

    def video_saved(self, path: Path, name: str) -> None:
        self._videos[name] = path

    def checkpoint_saved(self, path: Path, epoch: int, agent_step: int) -> None:
        if self._upload_interval == 0:
            return
        aliases = (f"step-{agent_step}", f"epoch-{epoch}", *(["best"] if self._is_best(path) else []))
        self._last_checkpoint = _Upload(path, epoch, agent_step, aliases)
        if epoch - self._uploaded_epoch >= self._upload_interval:
            self._upload(self._last_checkpoint)

    def finish(self, outcome: RunOutcome) -> None:
        if self._thread is None:
            return
        patience = self._finish_timeout if outcome.patience is None else min(outcome.patience, self._finish_timeout)
        deadline = monotonic() + patience
        last = self._last_checkpoint
        if outcome.state == "done" and last is not None and last.epoch != self._uploaded_epoch:
            self._upload(last)
        with suppress(queue.Full):  # then the thread hangs, and the message below says so
            self._tasks.put(_End(exit_code=0 if outcome.state == "done" else 1), timeout=patience)
        self._thread.join(timeout=max(0.0, deadline - monotonic()))
        if self._thread.is_alive():
            logger.warning(
                "wandb did not finish within %.0f s; `wandb sync` on the folder below wandb/ uploads the rest",
                patience,
            )
        elif self._left_out:
            logger.warning("wandb was too slow for %d epochs; metrics.jsonl has all of them", self._left_out)

    def _upload(self, upload: _Upload) -> None:
        self._put(upload)
        self._uploaded_epoch = upload.epoch

    def _put(self, task: _Metrics | _Upload) -> None:
        if self._stopped.is_set():
            return
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            self._left_out += 1

    def _work(self, header: RunHeader) -> None:
        try:
            run = self._open(header)
            exit_code = 1
            try:
                exit_code = self._forward(run)
            finally:
                run.finish(exit_code=exit_code)
        except Exception as error:  # the boundary of this thread: whatever wandb raises must not end the training
            logger.warning("wandb stopped reporting (%s); metrics.jsonl stays complete", _first_line(error))
            logger.debug("the failure in wandb", exc_info=True)
            self._stopped.set()
            # MailboxClosedError is in no public module of wandb.
            if isinstance(error, ConnectionError) or type(error).__name__ == "MailboxClosedError":
                _forget_dead_service()
        finally:
            self._stopped.set()

    def _open(self, header: RunHeader) -> wandb.Run:
        # wandb sends statistics about itself to the server, and the end of the process waits for them: measured, 12 s
        # against a server that accepts connections and says nothing.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        mode = self._mode
        obstacle = _obstacle() if mode == "online" else None
        if obstacle is not None:
            logger.warning("%s; wandb reports offline into %s", obstacle, header.folder / "wandb")
            mode = "offline"
        try:
            run = self._init(header, mode)
        except wandb.Error as error:
            if mode == "offline":
                raise
            logger.warning("wandb does not start online (%s); it reports offline", _first_line(error))
            self.run_id = secrets.token_hex(4)  # wandb keeps the id of the failed start in use
            run = self._init(header, "offline")
        run.define_metric("metric/*")
        run.define_metric("*", step_metric=AGENT_STEP)
        run.define_metric(REWARD_VS_TOTAL_TIME, step_metric=TOTAL_TIME)
        run.summary[TOTAL_PARAMETERS] = header.total_parameters
        return run

    def _init(self, header: RunHeader, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        config = self._config
        return wandb.init(
            project=config.project,
            entity=config.entity,
            group=self._group,
            name=config.name or header.run,
            tags=[redact_text(tag) for tag in config.tags],
            notes=None if config.notes is None else redact_text(config.notes),
            job_type=config.job_type,
            id=self.run_id,
            resume="allow",
            reinit="create_new",
            mode=mode,
            dir=str(header.folder),
            config=redact_config(header.config),
            save_code=False,
            allow_val_change=True,  # a continued run may have other intervals or another length
            settings=wandb.Settings(
                init_timeout=_INIT_TIMEOUT,
                console="off",  # wandb would wrap stdout and stderr and tear the dashboard
                silent=True,
                x_disable_meta=True,  # the metadata has the command line as it was typed, secrets included
            ),
        )

    def _forward(self, run: wandb.Run) -> int:
        """Pass tasks on until the end; returns the exit code for wandb."""
        while True:
            task = self._tasks.get()
            match task:
                case _Metrics():
                    run.log({**task.values, **self._films(task.videos)}, step=task.agent_step)
                case _Upload():
                    self._log_artifact(run, task)
                case _End():
                    return task.exit_code

    def _log_artifact(self, run: wandb.Run, upload: _Upload) -> None:
        import wandb

        metadata = {"epoch": upload.epoch, "agent_step": upload.agent_step}
        artifact = wandb.Artifact(name=self.run_id, type="model", metadata=metadata)
        try:
            for file in sorted(upload.path.iterdir()):  # add_dir would print into the dashboard
                artifact.add_file(str(file))
        except (OSError, ValueError) as error:  # removed before its turn came, because newer ones took its place
            logger.warning("wandb does not get the checkpoint %s (%s)", upload.path.name, _first_line(error))
            return
        run.log_artifact(artifact, aliases=["latest", *upload.aliases])

    @staticmethod
    def _films(videos: Mapping[str, Path]) -> dict[str, wandb.Video]:
        import wandb

        films = {}
        for name, path in videos.items():
            try:
                films[name] = wandb.Video(str(path))
            except (OSError, ValueError) as error:
                logger.warning("wandb does not get the video %s (%s)", path.name, _first_line(error))
        return films


def _forget_dead_service() -> None:
    """When the process of wandb itself has died, its farewell to that process at our exit would end in a traceback."""
    import wandb

    try:
        wandb.teardown()
    except (Exception, SystemExit):  # the boundary of this thread, as above
        logger.debug("wandb could not be closed", exc_info=True)


def _obstacle() -> str | None:
    """Why a run cannot be online, found out within seconds; None if nothing speaks against it."""
    # Without a key wandb would ask for one on the terminal, below the dashboard.
    if not has_wandb_key(os.environ, Path.home()):
        return "no wandb key is configured (`wandb login`)"
    server = os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER
    if urlsplit(server).scheme not in ("http", "https"):
        return f"WANDB_BASE_URL={redact_text(server)!r} is not an http address"
    try:
        with urllib.request.urlopen(server, timeout=_PROBE_TIMEOUT):  # follows the proxy settings, as wandb does
            return None
    except urllib.error.HTTPError:
        return None  # an answer, whatever it says
    except (OSError, http.client.HTTPException) as error:
        return f"{redact_text(server)} does not answer ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
