"""Moments as films: GIF by Pillow, MP4 where the extra `video` is installed."""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metta_train.playback.moments import Cast, Moment
from metta_train.playback.tiles import FRAME, Painter
from metta_train.reporting.storage import storage_errors
from metta_train.specs.config_errors import ConfigError

_OWN_COLOURS, _CUBE = 128, 5  # colours of a GIF: 128 of the first picture, and 5 x 5 x 5
_UNCHANGED = 255  # in the palette of a GIF: this pixel stays as it is
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
    """Few colours, one palette for the whole film; pixels that stay as they are cost nothing."""

    def __init__(self, file: Path, fps: int) -> None:
        super().__init__(file, fps)
        self._palette: Image.Image | None = None
        self._before: NDArray[np.uint8] | None = None
        self._pictures: list[Image.Image] = []

    def add(self, picture: Image.Image) -> None:
        if self._palette is None:
            self._palette = _palette_of(picture)
        flat = picture.quantize(palette=self._palette, dither=Image.Dither.NONE)
        pixels = np.asarray(flat)
        if self._before is not None:
            changes = Image.fromarray(np.where(pixels == self._before, _UNCHANGED, pixels).astype(np.uint8))
            changes.putpalette(flat.getpalette() or [])
            flat = changes
        self._before = pixels
        self._pictures.append(flat)

    def _write(self) -> None:
        first, *others = self._pictures
        pace = round(1000 / self._fps)
        durations = [pace] * len(others) + [max(pace, _LAST_FRAME)]
        first.save(
            self._unfinished,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            optimize=False,  # it would look for colours that each picture can do without
            transparency=_UNCHANGED,
            disposal=1,  # a picture is drawn over the one before
        )

    def _close(self) -> None:
        self._pictures.clear()


def _palette_of(first: Image.Image) -> Image.Image:
    """The colours of the first picture, and some of every kind for what comes later."""
    own = first.quantize(_OWN_COLOURS, dither=Image.Dither.NONE).getpalette() or []
    own = own[: 3 * _OWN_COLOURS]
    shades = [round(255 * step / (_CUBE - 1)) for step in range(_CUBE)]
    cube = [part for red in shades for green in shades for blue in shades for part in (red, green, blue)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*own, *cube][: 3 * _UNCHANGED])
    return palette


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
