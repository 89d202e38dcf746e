"""Films, read back picture by picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metta_train.playback.films import Film, Filming, open_film
from metta_train.playback.look import FLOOR, WALL, looks
from metta_train.playback.tiles import CAPTION, Painter
from metta_train.reporting.storage import StorageError
from metta_train.specs.config_errors import ConfigError
from tests.fakes.scripted_source import HEIGHT, WIDTH, ScriptedSource

TILE = 40  # of so small a map


def filmed(files: list[Path], source: ScriptedSource, fps: int = 10) -> None:
    with Filming(source.cast, [open_film(file, fps) for file in files]) as filming:
        for moment in source.moments(1):
            filming.add(1, moment)
        filming.finish()


def middle(picture: Image.Image, row: int, column: int) -> tuple[int, ...]:
    """Colour near the upper left of a cell, where no letters are."""
    left = (picture.width - WIDTH * TILE) // 2
    found = picture.convert("RGB").getpixel((left + column * TILE + TILE // 4, CAPTION + row * TILE + TILE // 4))
    assert isinstance(found, tuple)
    return found


def near(found: tuple[int, ...], wanted: tuple[int, ...], within: int = 12) -> bool:
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= within


def test_a_picture_shows_every_cell() -> None:
    source = ScriptedSource()
    picture = Painter(source.cast).picture(1, source.moment(2))
    assert picture.mode == "RGB" and picture.width % 2 == 0 and picture.height % 2 == 0
    found = looks(("altar", "mine"))
    assert middle(picture, 0, 0) == WALL and middle(picture, HEIGHT - 1, 4) == WALL
    assert middle(picture, 2, 2) == FLOOR and middle(picture, 1, 1) == FLOOR
    assert near(middle(picture, 3, 2), found["altar"].colour) and near(middle(picture, 3, 3), found["mine"].colour)
    assert middle(picture, 1, 3) != FLOOR, "agent 0, two steps to the right"
    assert Painter(source.cast).picture(1, source.moment(2)).tobytes() == picture.tobytes()


def frames(file: Path) -> Iterator[Image.Image]:
    with Image.open(file) as film:
        for index in range(film.n_frames):  # pyright: ignore[reportAttributeAccessIssue]
            film.seek(index)
            yield film.convert("RGB")


def test_a_gif_holds_every_moment_as_it_was_drawn(tmp_path: Path) -> None:
    file = tmp_path / "film.gif"
    source = ScriptedSource(steps=5)
    filmed([file], source)
    painter = Painter(source.cast)
    for step, frame in enumerate(frames(file)):
        expected = np.asarray(painter.picture(1, source.moment(step)), np.int16)
        apart = np.abs(np.asarray(frame, np.int16) - expected)
        assert apart.mean() < 1.0 and apart.max() <= 40, f"step {step}: only edges of letters may differ"
    assert step == 5
    with Image.open(file) as film:
        assert film.info["duration"] == 100 and film.info["loop"] == 0
    assert list(tmp_path.iterdir()) == [file]


def test_a_gif_of_a_drawing_environment(tmp_path: Path) -> None:
    file = tmp_path / "film.gif"
    filmed([file], ScriptedSource(steps=20, image=True))
    shades = [frame.getpixel((frame.width // 2, CAPTION + 20)) for frame in frames(file)]
    assert len(shades) == 21 and shades[0] == (255, 0, 0)
    for step, shade in enumerate(shades):
        assert isinstance(shade, tuple) and near(shade, (255, 0, 10 * step), within=32), "not a colour of the first one"


# imageio-ffmpeg leaves the pipes of its readers to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_mp4_holds_every_moment(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    file = tmp_path / "film.mp4"
    source = ScriptedSource(steps=12)
    filmed([file, tmp_path / "film.gif"], source)
    reader = imageio_ffmpeg.read_frames(str(file))
    told = next(reader)
    pictures = [np.frombuffer(data, np.uint8).reshape(told["size"][1], told["size"][0], 3) for data in reader]
    assert len(pictures) == 13 and told["fps"] == 10
    expected = np.asarray(Painter(source.cast).picture(1, source.moment(12)), np.int16)
    assert expected.shape == pictures[-1].shape
    assert np.abs(pictures[-1].astype(np.int16) - expected).mean() < 6, "compressed, but the same"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.gif", "film.mp4"]


def test_without_the_encoder_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'metta-train\[video\]'"):
        open_film(tmp_path / "film.mp4", 10)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_what_is_given_up_leaves_nothing_and_keeps_the_old_film(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"film{suffix}"
    file.write_bytes(b"old")
    source = ScriptedSource(steps=30)

    def broken() -> None:
        with Filming(source.cast, [open_film(file, 10)]) as filming:
            for moment in source.moments(1):
                filming.add(1, moment)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert [path.name for path in tmp_path.iterdir()] == [file.name] and file.read_bytes() == b"old"


def test_a_disk_that_refuses_is_told_of(tmp_path: Path) -> None:
    source = ScriptedSource()
    film: Film = open_film(tmp_path / "gone" / "film.gif", 10)
    film.add(Painter(source.cast).picture(1, source.moment(0)))
    with pytest.raises(StorageError, match="could not write"):
        film.finish()
