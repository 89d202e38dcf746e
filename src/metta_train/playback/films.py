"""Moments as films: GIF by Pillow, MP4 where the extra `video` is installed."""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, final

from PIL import Image

from metta_train.playback.moments import Cast, Moment
from metta_train.playback.tiles import FRAME, Painter
from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError

_COLOURS = 128
_LAST_FRAME = 1500  # milliseconds, so that the end is seen before a GIF starts again


class Film(ABC):
    """A film that is being written; nothing stands at its place until it is whole."""

    def __init__(self, file: Path, fps: int) -> None:
        self._file = file
        self._fps = fps
        self._unfinished = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")

    @abstractmethod
    def add(self, picture: Image.Image) -> None:
        """The next picture; all have the same size."""

    @final
    def finish(self) -> None:
        """Put the film in its place. Raises StorageError."""
        with storage_errors("write", self._file):
            try:
                self._write()
                self._unfinished.replace(self._file)
            finally:
                self.abandon()

    @final
    def abandon(self) -> None:
        """Leave nothing behind; after `finish` this does nothing."""
        self._close()
        with suppress(FileNotFoundError):
            self._unfinished.unlink()

    @abstractmethod
    def _write(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class Gif(Film):
    """Few colours, one palette for the whole film."""

    def __init__(self, file: Path, fps: int) -> None:
        super().__init__(file, fps)
        self._palette: Image.Image | None = None
        self._pictures: list[Image.Image] = []

    def add(self, picture: Image.Image) -> None:
        if self._palette is None:
            self._palette = picture.quantize(_COLOURS, dither=Image.Dither.NONE)
        self._pictures.append(picture.quantize(palette=self._palette, dither=Image.Dither.NONE))

    def _write(self) -> None:
        first, *others = self._pictures
        pace = round(1000 / self._fps)
        durations = [pace] * (len(self._pictures) - 1) + [max(pace, _LAST_FRAME)]
        # optimize would drop palette entries per picture, which costs minutes and saves little.
        first.save(
            self._unfinished,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            optimize=False,
            disposal=1,
        )

    def _close(self) -> None:
        self._pictures.clear()


class Mp4(Film):
    """H.264 by the ffmpeg that imageio-ffmpeg brings."""

    def __init__(self, file: Path, fps: int) -> None:
        super().__init__(file, fps)
        self._pipe: Generator[None, object, None] | None = None

    def add(self, picture: Image.Image) -> None:
        with storage_errors("write", self._file):
            if self._pipe is None:
                self._pipe = self._opened(picture.size)
            self._pipe.send(picture.tobytes())

    def _opened(self, size: tuple[int, int]) -> Generator[None, object, None]:
        import imageio_ffmpeg

        pipe = imageio_ffmpeg.write_frames(
            str(self._unfinished), size, fps=self._fps, macro_block_size=2, quality=8, ffmpeg_log_level="error"
        )
        pipe.send(None)
        return pipe

    def _write(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


class Filming:
    """The moments of some episodes, drawn once and written into every film.

    Args:
        cast: who plays where.
        films: to be finished here.
    """

    def __init__(self, cast: Cast, films: Sequence[Film]) -> None:
        self._painter = Painter(cast)
        self._films = films
        self._size: tuple[int, int] | None = None

    def add(self, episode: int, moment: Moment) -> None:
        """The next moment."""
        picture = self._painter.picture(episode, moment)
        if self._size is None:
            self._size = picture.size
        if picture.size != self._size:  # another map; the films keep their size
            fitted = Image.new("RGB", self._size, FRAME)
            fitted.paste(picture)
            picture = fitted
        for film in self._films:
            film.add(picture)

    def finish(self) -> None:
        """Put the films in their places. Raises StorageError."""
        for film in self._films:
            film.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for film in self._films:
            film.abandon()


def open_film(file: Path, fps: int) -> Film:
    """A film by the suffix of its file. Raises ConfigError when something is missing for it."""
    if file.suffix == ".gif":
        return Gif(file, fps)
    assert file.suffix == ".mp4"
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            "--mp4 needs an encoder that is not installed: pip install 'metta-train[video]', or use --gif"
        )
    return Mp4(file, fps)
