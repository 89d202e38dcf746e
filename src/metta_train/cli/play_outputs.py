"""What `metta-play` makes where nobody watches: films, replays, pages, a log, the result."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metta_train.cli.exit_codes import DONE
from metta_train.playback.log import log_lines, summary
from metta_train.playback.moments import Cast, Moment, Source
from metta_train.playback.replays import SUFFIX, ReplayFile
from metta_train.reporting.results import print_json, shown_path
from metta_train.reporting.storage import replace_file, storage_errors

DUMB = "dumb"  # a TERM that can do nothing
REFRESH = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that are wanted."""

    films: tuple[Path, ...]
    page: Path | None
    replay: bool

    @property
    def any(self) -> bool:
        return bool(self.films) or self.page is not None or self.replay

    @property
    def recording(self) -> bool:
        return self.page is not None or self.replay


@dataclass(frozen=True, slots=True)
class ReplayPlace:
    """Where replays are written."""

    folder: Path
    name: str  # without the number of the episode

    def file(self, episode: int, content: bytes) -> Path:
        """A name for this replay; another replay keeps its own."""
        with storage_errors("read", self.folder):
            for copy in itertools.count(1):
                file = self.folder / f"{self.name}-episode-{episode}{'' if copy == 1 else f'-{copy}'}{SUFFIX}"
                if not file.exists() or file.read_bytes() == content:
                    return file
        raise AssertionError


def play_unwatched(source: Source, options: argparse.Namespace, outputs: Outputs, place: ReplayPlace | None) -> int:
    """Play without an audience: into files, as a log, or for the result alone."""
    from metta_train.playback.films import Filming, open_film

    cast = source.cast
    logged = not outputs.any and not options.json
    summaries: list[str] = []  # printed when no progress is shown any more
    results: list[dict[str, object]] = []
    files: list[Path] = []
    films = [open_film(file, options.fps) for file in outputs.films]
    with Filming(cast, films) as filming, _progress(cast, shown=not logged) as told:
        for episode in range(options.episode, options.episode + (options.episodes or 1)):
            followed = _Followed(source.moments(episode), told)
            if logged:
                for line in log_lines(cast, episode, followed, options.agent):
                    print(line)
            else:
                for moment in followed:
                    if outputs.films:
                        filming.add(episode, moment)
                summaries.append(summary(cast, episode, followed.last))
            if outputs.recording:
                files += _write_replay(source, episode, followed, outputs, place)
            results.append(_result(episode, followed.last))
        if outputs.films:
            filming.finish()
    files += outputs.films
    if options.json:
        seed = None if isinstance(source, ReplayFile) else options.seed
        of_all = {"policy": cast.policy, "environment": cast.environment, "how": cast.how, "seed": seed}
        print_json({**of_all, "episodes": results, "files": files})
    else:
        for line in [*summaries, *(f"wrote {shown_path(file)}" for file in files)]:
            print(line)
    return DONE


class _Followed:
    """The moments of an episode; knows afterwards how it ended and what was to be seen."""

    def __init__(self, moments: Iterator[Moment], told: Callable[[Moment], None]) -> None:
        self._moments = moments
        self._told = told
        self._last: Moment | None = None
        self.kinds: set[str] = set()

    def __iter__(self) -> Iterator[Moment]:
        for moment in self._moments:
            self._last = moment
            if moment.scene is not None:
                self.kinds.update(moment.scene.kinds)
            self._told(moment)
            yield moment

    @property
    def last(self) -> Moment:
        assert self._last is not None, "every episode has a first moment"
        return self._last


def _result(episode: int, last: Moment) -> dict[str, object]:
    rewards = [float(total) for total in last.totals]
    return {"episode": episode, "length": last.step, "reward": last.score, "rewards": rewards}


def _write_replay(
    source: Source, episode: int, followed: _Followed, outputs: Outputs, place: ReplayPlace | None
) -> list[Path]:
    from metta_train.playback.page import replay_page

    content = source.replay()
    files: list[Path] = []
    if outputs.replay:
        assert place is not None, "a replay is not written again"
        file = place.file(episode, content)
        with storage_errors("write", file):
            file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, content)
        files.append(file)
    if outputs.page is not None:
        cast = source.cast
        title = f"{cast.policy} on {cast.environment}, episode {episode}, {cast.how}"
        page = replay_page(content, cast, title, followed.kinds)
        replace_file(outputs.page, page.encode())
        files.append(outputs.page)
    return files


@contextmanager
def _progress(cast: Cast, *, shown: bool) -> Iterator[Callable[[Moment], None]]:
    """A line on stderr that stays in place, where someone watches."""
    if not shown or not sys.stderr.isatty() or os.environ.get("TERM", DUMB) == DUMB:
        yield lambda _: None
        return
    last = 0.0
    limit = "" if cast.limit is None else f" of {cast.limit}"

    def told(moment: Moment) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REFRESH:
            last = now
            print(f"\r\x1b[K{cast.policy}: step {moment.step}{limit}", end="", file=sys.stderr, flush=True)

    try:
        yield told
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
