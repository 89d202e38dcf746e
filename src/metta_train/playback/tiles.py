"""Grid worlds as pictures: flat tiles, a caption and a legend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from metta_train.playback.look import FAINT, FLOOR, INK, WALL, Colour, KindLook, agent_colour, looks
from metta_train.playback.moments import Cast, Moment
from metta_train.specs.scene import Scene, Thing

LONGEST_SIDE = 720  # pixels of the map
SMALLEST_TILE, LARGEST_TILE = 6, 40
LEAST_WIDTH = 420  # pixels, so that the caption fits
CAPTION, MARGIN, LINE = 30, 10, 20  # pixels
FONT = 14
FRAME: Colour = (13, 14, 17)
_READABLE = 13  # pixels of a tile that can hold letters
_SMOOTH = 3  # drawn so much larger and reduced


@dataclass(frozen=True, slots=True)
class Caption:
    """The words above a picture."""

    left: str
    right: str


def caption_of(cast: Cast, episode: int, moment: Moment) -> Caption:
    """Who plays where, and how far it has come."""
    return Caption(
        f"{cast.policy} on {cast.environment}, episode {episode}", f"step {moment.step}   reward {moment.score:.3f}"
    )


class Painter:
    """Draws the moments of one cast; keeps what does not change from one picture to the next."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast
        self._font = ImageFont.load_default(FONT)
        self._ground: tuple[frozenset[tuple[int, int]], Image.Image] | None = None
        self._looks: dict[str, KindLook] = {}
        self._stamps: dict[tuple[object, ...], Image.Image] = {}

    def picture(self, episode: int, moment: Moment) -> Image.Image:
        """The moment as an RGB picture; the size stays the same within an episode, with even sides."""
        if moment.scene is not None:
            drawn = self._map(moment.scene)
        else:
            assert moment.image is not None, "the command line asks for pictures of environments that draw them"
            drawn = Image.fromarray(moment.image)
        legend = [] if moment.scene is None else self._legend(moment.scene, max(drawn.width, LEAST_WIDTH))
        width = max(drawn.width, LEAST_WIDTH) + 2 * MARGIN
        height = CAPTION + drawn.height + MARGIN + LINE * len(legend) + (MARGIN // 2 if legend else 0)
        whole = Image.new("RGB", (width + width % 2, height + height % 2), FRAME)  # films need even sides
        whole.paste(drawn, ((width - drawn.width) // 2, CAPTION))
        pen = ImageDraw.Draw(whole)
        self._write_caption(pen, caption_of(self._cast, episode, moment), width)
        for number, line in enumerate(legend):
            left, top = MARGIN, CAPTION + drawn.height + MARGIN // 2 + 2 + LINE * number
            for kind, look in line:
                self._swatch(pen, left, top, look)
                pen.text((left + 20, top - 1), kind, fill=FAINT, font=self._font)
                left += self._item_width(pen, kind)
        return whole

    def _write_caption(self, pen: ImageDraw.ImageDraw, caption: Caption, width: int) -> None:
        right = width - MARGIN - pen.textlength(caption.right, font=self._font)
        left = caption.left
        while left and MARGIN + pen.textlength(left, font=self._font) > right - MARGIN:
            left = left[:-1]
        pen.text((MARGIN, 7), left, fill=FAINT, font=self._font)
        pen.text((right, 7), caption.right, fill=INK, font=self._font)

    def _legend(self, scene: Scene, width: int) -> list[list[tuple[str, KindLook]]]:
        pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        lines: list[list[tuple[str, KindLook]]] = []
        left = width
        for kind, look in self._looks_of(scene).items():
            if left + self._item_width(pen, kind) > width:
                lines.append([])
                left = 0
            lines[-1].append((kind, look))
            left += int(self._item_width(pen, kind))
        return lines

    def _item_width(self, pen: ImageDraw.ImageDraw, kind: str) -> float:
        return 20 + pen.textlength(kind, font=self._font) + 16

    def _swatch(self, pen: ImageDraw.ImageDraw, left: float, top: float, look: KindLook) -> None:
        pen.rounded_rectangle((left, top + 1, left + 14, top + 15), radius=3, fill=look.colour)

    def _looks_of(self, scene: Scene) -> dict[str, KindLook]:
        if not set(scene.kinds) <= set(self._looks):  # kinds may appear later; those of before keep their places
            self._looks |= {kind: look for kind, look in looks(scene.kinds).items() if kind not in self._looks}
        return self._looks

    def _map(self, scene: Scene) -> Image.Image:
        tile = max(SMALLEST_TILE, min(LARGEST_TILE, LONGEST_SIDE // max(scene.height, scene.width)))
        found = self._looks_of(scene)
        if self._ground is None or self._ground[0] is not scene.walls:
            self._ground = (scene.walls, _ground(scene, tile))
        drawn = self._ground[1].copy()
        for thing in sorted(scene.things, key=lambda thing: thing.agent is not None):
            stamp = self._stamp(thing, found, tile)
            drawn.paste(stamp, (thing.column * tile, thing.row * tile))
        return drawn

    def _stamp(self, thing: Thing, found: dict[str, KindLook], tile: int) -> Image.Image:
        laden = bool(thing.holds)
        key = (tile, thing.kind, thing.agent, laden)
        if key not in self._stamps:
            if thing.agent is not None:
                label = str(thing.agent)
                self._stamps[key] = _stamp(tile, _disc, agent_colour(thing.agent), label, laden=laden)
            else:
                look = found[thing.kind]
                self._stamps[key] = _stamp(tile, _block, look.colour, look.letters, laden=laden)
        return self._stamps[key]


def _ground(scene: Scene, tile: int) -> Image.Image:
    ground = Image.new("RGB", (scene.width * tile, scene.height * tile), FLOOR)
    pen = ImageDraw.Draw(ground)
    line = tuple(value + 8 for value in FLOOR)
    for column in range(1, scene.width):
        pen.line((column * tile, 0, column * tile, ground.height), fill=line)
    for row in range(1, scene.height):
        pen.line((0, row * tile, ground.width, row * tile), fill=line)
    for row, column in scene.walls:
        pen.rectangle((column * tile, row * tile, (column + 1) * tile - 1, (row + 1) * tile - 1), fill=WALL)
    return ground


_Shape = Callable[[ImageDraw.ImageDraw, int, Colour], None]


def _stamp(tile: int, shape: _Shape, colour: Colour, label: str, *, laden: bool) -> Image.Image:
    """One tile, drawn large and reduced, so that its edges are smooth."""
    side = tile * _SMOOTH
    large = Image.new("RGB", (side, side), FLOOR)
    pen = ImageDraw.Draw(large)
    shape(pen, side, colour)
    if tile >= _READABLE:
        font = ImageFont.load_default(side * 0.5)
        pen.text((side / 2, side * 0.52), label, fill=FRAME, font=font, anchor="mm")
    if laden:  # a dot: it holds something
        pen.ellipse((side * 0.66, side * 0.04, side * 0.96, side * 0.34), fill=(255, 255, 255), outline=FRAME)
    return large.resize((tile, tile), Image.Resampling.BOX)


def _disc(pen: ImageDraw.ImageDraw, side: int, colour: Colour) -> None:
    pen.ellipse((side * 0.06, side * 0.06, side * 0.94, side * 0.94), fill=colour)


def _block(pen: ImageDraw.ImageDraw, side: int, colour: Colour) -> None:
    pen.rounded_rectangle((side * 0.08, side * 0.08, side * 0.92, side * 0.92), radius=side * 0.18, fill=colour)
