"""Flat cartoon images of the toy world's classes, drawn from the numbers of a scene."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from jaxsd.toy.world.palette import BACKGROUND_RGB, COLOR_RGB, SIDE_CENTER, Color
from jaxsd.toy.world.scene import Scene

Point = tuple[float, float]

PAGE_SIDE = 64.0
"""Side of the image in page units; every length below is in these units."""

SUPERSAMPLING = 4

INK: Color = (30, 26, 36)
WHITE_RGB: Color = (255, 255, 255)
WOOD: Color = (132, 86, 50)
STONE: Color = (120, 120, 128)
OUTLINE = 1.1


class Pen:
    """Draws on an image in local units, moved, scaled and mirrored to where the object stands."""

    def __init__(self, image: Image.Image, center: Point, scale: float, mirrored: bool = False) -> None:
        self._draw = ImageDraw.Draw(image)
        self._pixels = image.width / PAGE_SIDE
        self._x = center[0] * self._pixels
        self._y = center[1] * self._pixels
        self._sy = scale * self._pixels
        self._sx = -self._sy if mirrored else self._sy

    def _transform(self, points: Iterable[Point]) -> list[Point]:
        return [(self._x + self._sx * x, self._y + self._sy * y) for x, y in points]

    def _width(self, width: float) -> int:
        return max(1, round(width * self._sy))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Color, outline: float = OUTLINE) -> None:
        """Fill an upright ellipse; `outline` is the ink line's width, 0 for none."""
        (x0, y0), (x1, y1) = self._transform([(x - rx, y - ry), (x + rx, y + ry)])
        box = (min(x0, x1), y0, max(x0, x1), y1)
        if outline:
            self._draw.ellipse(box, fill=fill, outline=INK, width=self._width(outline))
        else:
            self._draw.ellipse(box, fill=fill)

    def polygon(self, points: Sequence[Point], fill: Color, outline: float = OUTLINE) -> None:
        """Fill a polygon; `outline` is the ink line's width, 0 for none."""
        corners = self._transform(points)
        self._draw.polygon(corners, fill=fill)
        if outline:
            self._draw.line([*corners, *corners[:2]], fill=INK, width=self._width(outline), joint="curve")

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color, outline: float = OUTLINE) -> None:
        """Fill an upright rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outline)

    def stroke(self, points: Sequence[Point], width: float, color: Color) -> None:
        """Draw a line with round joints."""
        self._draw.line(self._transform(points), fill=color, width=self._width(width), joint="curve")


def _mix(color: Color, other: Color, amount: float) -> Color:
    r, g, b = (round(a + (z - a) * amount) for a, z in zip(color, other, strict=True))
    return r, g, b


def _dark(color: Color) -> Color:
    return _mix(color, (0, 0, 0), 0.32)


def _light(color: Color) -> Color:
    return _mix(color, WHITE_RGB, 0.55)


def _curve(points: Sequence[Point], closed: bool = True, steps: int = 6) -> list[Point]:
    """Catmull-Rom curve through the points."""
    knots = np.asarray(points, dtype=float)
    padded = np.concatenate([knots[-1:], knots, knots[:2]] if closed else [knots[:1], knots, knots[-1:]])
    before, start, end, after = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.arange(steps)[:, None] / steps
    path = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    smooth = path.reshape(-1, 2)
    if not closed:
        smooth = np.concatenate([smooth, knots[-1:]])
    return [(float(x), float(y)) for x, y in smooth]


def _mirror(right: Sequence[Point]) -> list[Point]:
    """Close a right-hand outline with its mirror image."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def _rotate(points: Iterable[Point], degrees: float) -> list[Point]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(c * x - s * y, s * x + c * y) for x, y in points]


_BELL = _mirror(_curve([(0, -15), (6, -13.5), (9, -8), (10, 0), (12.5, 6), (18, 11.5)], closed=False))


def _draw_bell(pen: Pen, color: Color, scene: Scene) -> None:
    swing = 3.0 * math.sin(2 * math.pi * scene.phase)
    pen.ellipse(0, -17, 3.6, 3.6, _dark(color))
    pen.ellipse(swing, 14.5, 4.4, 4.4, _dark(color))
    pen.polygon(_BELL, color)
    pen.stroke([(-11.5, 6), (11.5, 6)], 1.4, _dark(color))
    pen.stroke([(-5, -9), (-6.2, -2), (-7.4, 3)], 2.2, _light(color))
    for side in (-1, 1):
        for reach in (0.0, 4.0):
            tip = 15.0 + reach
            pen.stroke(_curve([(side * tip, -11), (side * (tip + 1.8), -6), (side * tip, -1)], False, 3), 1.4, STONE)


_BIRD_BODY = _curve([(-19, 8), (-13, 3), (-7, -2), (-1, -9), (5, -14), (12, -13), (15, -7), (13, 2), (6, 11), (-4, 12)])
_BIRD_WING = _curve([(-15, 5), (-7, -1), (2, -4), (6, 1), (1, 7), (-7, 8)])


def _draw_bird(pen: Pen, color: Color, scene: Scene) -> None:
    gape = 2.0 + 2.0 * scene.phase
    pen.stroke([(-22, 17.5), (0, 16), (22, 17.5)], 3.4, WOOD)
    for x in (1.0, 6.0):
        pen.stroke([(x, 10), (x, 16)], 1.6, INK)
    pen.polygon([(13, -11), (21, -9 - gape), (15, -7.5)], (255, 160, 30), 0.8)
    pen.polygon([(14, -8), (20, -6 + gape / 2), (14, -4.5)], (255, 160, 30), 0.8)
    pen.polygon(_BIRD_BODY, color)
    pen.ellipse(6.5, 4, 4.5, 5.5, _light(color), 0)
    pen.polygon(_BIRD_WING, _dark(color), 0.9)
    pen.ellipse(9, -8.5, 2.7, 2.7, WHITE_RGB, 0)
    pen.ellipse(9.5, -8.5, 1.6, 1.6, INK, 0)


_FLAME_OUTER = _curve(
    [
        *((0, 14), (-12, 13), (-17, 5), (-16, -7), (-11, 0), (-10, -10), (-2, -24)),
        *((2, -12), (6, -8), (9, -17), (15, -5), (17, 5), (12, 13)),
    ],
    steps=5,
)
_FLAME_INNER = _curve([(0, 13), (-8, 10), (-9, 4), (-5, -1), (-1, -9), (3, -2), (8, 2), (9, 8), (6, 12)], steps=5)
_LOGS = tuple(
    (
        [(x, y + 14) for x, y in _rotate([(-18, -2.8), (18, -2.8), (18, 2.8), (-18, 2.8)], tilt)],
        [(x, y + 14) for x, y in _rotate([(-18, 0), (18, 0)], tilt)],
    )
    for tilt in (-13, 13)
)


def _draw_bonfire(pen: Pen, color: Color, scene: Scene) -> None:
    lean = 0.22 * math.sin(2 * math.pi * scene.phase)
    outer = [(x + lean * (12 - y) * 0.5, y) for x, y in _FLAME_OUTER]
    pen.polygon(outer, color)
    pen.polygon([(x + lean * (12 - y) * 0.5, y) for x, y in _FLAME_INNER], _mix(color, (255, 250, 200), 0.7), 0)
    for log, ends in _LOGS:
        pen.polygon(log, WOOD)
        for x, y in ends:
            pen.ellipse(x, y, 2.3, 3.0, (214, 168, 112), 0.8)


_CUP = _mirror([(0, 13), (6, 13), (10, 9), (12.5, 2), (13.5, -6)])


def _draw_cafe(pen: Pen, color: Color, scene: Scene) -> None:
    pen.ellipse(-1, 14.5, 19, 4, _light(color))
    pen.ellipse(14, 1.5, 6, 6, color)
    pen.ellipse(14, 1.5, 2.8, 2.8, _light(color))
    pen.polygon([(x - 2, y) for x, y in _CUP], color)
    pen.ellipse(-2, -6, 13.5, 3.6, WHITE_RGB)
    pen.ellipse(-2, -5.6, 11.2, 2.3, (96, 58, 34), 0)
    pen.stroke([(-11.5, 0), (-10, 5), (-7.5, 9)], 2.2, _light(color))
    bend = 2.4 if scene.phase < 0.5 else -2.4
    for x in (-8.0, -2.0, 4.0):
        steam = _curve([(x, -10), (x + bend, -13.5), (x - bend, -18), (x, -22)], False, 4)
        pen.stroke(steam, 3.0, (150, 152, 166))
        pen.stroke(steam, 1.6, WHITE_RGB)


_CAR_BODY = [(-20, 9), (-20, 1), (-18, -2), (-12, -3), (-7, -12), (7, -12), (12, -3), (18, -1), (20, 3), (20, 9)]
_GLASS: Color = (206, 234, 250)


def _draw_car(pen: Pen, color: Color, scene: Scene) -> None:
    for step, radius in enumerate((2.4, 3.2, 4.0)):
        pen.ellipse(-21.5 - 2.4 * step, 7.5 - (1.4 + 2 * scene.phase) * step, radius, radius, (200, 200, 206), 0.7)
    pen.polygon(_CAR_BODY, color)
    pen.polygon([(-9, -3), (-5.8, -9.6), (-1, -9.6), (-1, -3)], _GLASS, 0.9)
    pen.polygon([(1.4, -3), (1.4, -9.6), (5.8, -9.6), (9, -3)], _GLASS, 0.9)
    pen.stroke([(-18, 3.4), (17, 3.4)], 1.2, _dark(color))
    pen.ellipse(18, 2, 2, 2, (255, 246, 190), 0.8)
    for x in (-11, 11):
        pen.ellipse(x, 9, 6.2, 6.2, INK, 0)
        pen.ellipse(x, 9, 2.8, 2.8, (214, 214, 220), 0)


_DOG_HEAD = _mirror(_curve([(0, -15), (7, -14.5), (12.5, -9), (13.5, 0), (11, 9), (5, 15), (0, 16)], closed=False))
_DOG_EAR = _curve([(9, -14), (15, -15), (20, -8), (21, 3), (18, 11), (13.5, 10), (11.5, 2), (10.5, -6)])


def _draw_dog(pen: Pen, color: Color, scene: Scene) -> None:
    tongue = 15.5 + 3.5 * scene.phase
    pen.polygon(_DOG_HEAD, color)
    pen.polygon(_DOG_EAR, _dark(color))
    pen.polygon([(-x, y) for x, y in _DOG_EAR], _dark(color))
    pen.ellipse(0, tongue - 4, 3.2, 4.6, (240, 84, 112), 0.8)
    pen.ellipse(0, 7.5, 8, 6, _light(color), 0.8)
    pen.ellipse(0, 4.2, 3.8, 2.8, INK, 0)
    pen.stroke([(0, 6), (0, 10), (-3.6, 11.4)], 1.1, INK)
    pen.stroke([(0, 10), (3.6, 11.4)], 1.1, INK)
    for x in (-5.6, 5.6):
        pen.ellipse(x, -4, 2.8, 3.3, WHITE_RGB, 0)
        pen.ellipse(x, -3.6, 2.1, 2.6, INK, 0)
        pen.ellipse(x + 0.7, -4.6, 0.8, 0.8, WHITE_RGB, 0)


_TILT = 35.0
_GUITAR_BODY = _rotate(
    _mirror(
        _curve([(0, 24), (8, 23), (13.5, 17), (12.5, 9), (8.5, 4), (9.8, -1), (9, -6), (4, -9), (0, -9)], closed=False)
    ),
    _TILT,
)
_GUITAR_NECK = _rotate([(-2.2, -25), (2.2, -25), (2.2, 4), (-2.2, 4)], _TILT)
_GUITAR_HEAD = _rotate([(-4.2, -32), (4.2, -32), (3.0, -24), (-3.0, -24)], _TILT)
_GUITAR_HOLE = _rotate([(0, 6)], _TILT)[0]
_GUITAR_BRIDGE = _rotate([(-6, 15.5), (6, 15.5)], _TILT)
_GUITAR_STRINGS = _rotate([(0, -24), (0, 15.5)], _TILT)
_GUITAR_SHINE = _rotate([(-9, 11), (-9.6, 16), (-6, 20)], _TILT)


def _draw_guitar(pen: Pen, color: Color, scene: Scene) -> None:
    pen.polygon(_GUITAR_BODY, color)
    pen.stroke(_GUITAR_SHINE, 1.8, _light(color))
    pen.ellipse(*_GUITAR_HOLE, 4.4, 4.4, INK, 0)
    pen.polygon(_GUITAR_NECK, WOOD, 0.9)
    pen.polygon(_GUITAR_HEAD, _dark(color), 0.9)
    pen.stroke(_GUITAR_BRIDGE, 2.4, INK)
    pen.stroke(_GUITAR_STRINGS, 0.9, (250, 240, 210))


_MANE = _curve(
    [
        (r * math.sin(math.pi * k / 11), -r * math.cos(math.pi * k / 11))
        for k, r in ((k, 22.0 if k % 2 else 17.5) for k in range(22))
    ],
    steps=4,
)
_FUR: Color = (246, 206, 138)


def _draw_lion(pen: Pen, color: Color, scene: Scene) -> None:
    roar = 3.0 + 1.8 * scene.phase
    pen.polygon(_MANE, color)
    pen.ellipse(0, 0, 16.2, 16.2, _dark(color), 0)
    for x in (-9, 9):
        pen.ellipse(x, -9.5, 3.8, 3.8, _FUR, 0.9)
    pen.ellipse(0, 1, 11.5, 12.2, _FUR, 0.9)
    pen.ellipse(0, 8, 4.4, roar, (150, 24, 36), 0.9)
    for x in (-2.2, 2.2):
        pen.polygon([(x - 1.1, 8.4 - roar), (x + 1.1, 8.4 - roar), (x, 11 - roar)], WHITE_RGB, 0)
    pen.polygon([(-3.6, -0.6), (3.6, -0.6), (0, 3.6)], (92, 50, 36), 0.7)
    for x in (-4.8, 4.8):
        pen.ellipse(x, -4.4, 1.8, 2.1, INK, 0)
        pen.stroke([(x * 1.75, -7.2), (x * 0.6, -6.4)], 1.1, INK)


_PIPES = ((-16.2, -4.0), (-10.8, -11.0), (-5.4, -17.0), (0.0, -21.0), (5.4, -17.0), (10.8, -11.0), (16.2, -4.0))


def _draw_organ(pen: Pen, color: Color, scene: Scene) -> None:
    for x, top in _PIPES:
        pen.box(x - 2.5, top, x + 2.5, 11, color, 0.9)
        pen.ellipse(x, top, 2.5, 1.4, INK, 0)
        pen.stroke([(x - 1.0, top + 2.6), (x - 1.0, 3)], 1.0, _light(color))
        pen.polygon([(x - 1.7, 7.6), (x + 1.7, 7.6), (x, 4.2)], INK, 0)
    pen.box(-21, 10, 21, 19, _dark(color))
    pen.box(-15, 12.6, 15, 16.2, WHITE_RGB, 0.7)
    for key in range(6):
        x = -12.0 + 4.8 * key
        pen.box(x - 0.9, 12.6, x + 0.9, 14.8, INK, 0)


_BREAKER_BACK = [(-25, 20), (-20, 8), (-15, -5), (-7, -15), (3, -19), (11, -16), (15.5, -9), (15, -2)]
_BREAKER_CURL = [(11, -6), (5, -7.5), (-0.5, -4), (-2.5, 3), (0, 10), (8, 15), (16, 20)]
_BREAKER = _curve(_BREAKER_BACK, False, 4) + _curve(_BREAKER_CURL, False, 4)
_BREAKER_FOAM = _curve([(-10, -10), (-7, -14), (3, -18), (11, -15), (15, -8)], False, 4)
_BREAKER_LINE = _curve([(-15, 14), (-12, 2), (-6, -6), (2, -11), (9, -11)], False, 4)
_ROCK = [(7, 21), (10, 13), (14, 9), (18, 10), (21, 15), (25, 21)]


def _scallops(level: float, phase: float) -> list[Point]:
    """Wavy surface line across the whole page."""
    return [(x, level + 1.5 * math.sin(2 * math.pi * (x / 16 + phase))) for x in range(-2, 68, 2)]


def _draw_waves(pen: Pen, color: Color, scene: Scene, page: Pen) -> None:
    shore = [(-2.0, 58.5), (66.0, 58.5)]
    for level, fill, phase in ((46.0, color, scene.phase), (53.0, _dark(color), scene.phase + 0.5)):
        surface = _scallops(level, phase)
        page.polygon([*surface, shore[1], shore[0]], fill, 0)
        page.stroke(surface, 1.6, WHITE_RGB)
        if level < 50:
            pen.polygon(_BREAKER, color)
            pen.stroke(_BREAKER_LINE, 1.8, _dark(color))
            pen.stroke(_BREAKER_FOAM, 4.0, WHITE_RGB)
            for x, y, r in ((15, -4, 3.2), (11, -12, 3.2), (18, 1.5, 1.8), (20.5, -6, 1.4)):
                pen.ellipse(x, y, r, r, WHITE_RGB, 0.5)
            pen.polygon(_ROCK, STONE)
            pen.stroke([(11.5, 15), (14.5, 11.5)], 1.6, (176, 176, 184))


_DRAW: dict[str, Callable[[Pen, Color, Scene], None]] = {
    "bell": _draw_bell,
    "bird": _draw_bird,
    "bonfire": _draw_bonfire,
    "cafe": _draw_cafe,
    "car": _draw_car,
    "dog": _draw_dog,
    "guitar": _draw_guitar,
    "lion": _draw_lion,
    "organ": _draw_organ,
}


def draw(scene: Scene, resolution: int = 64) -> UInt8[np.ndarray, "{resolution} {resolution} 3"]:
    """Draw a scene.

    Args:
        scene: what to draw. The image depends on nothing else.
        resolution: side of the square image in pixels.

    Returns:
        uint8 (resolution, resolution, 3), RGB.
    """
    side = resolution * SUPERSAMPLING
    sky, ground = BACKGROUND_RGB[scene.background]
    image = Image.new("RGB", (side, side), sky)
    image.paste(ground, (0, round(scene.horizon * side / PAGE_SIDE), side, side))
    color = COLOR_RGB[scene.color]
    pen = Pen(image, (SIDE_CENTER[scene.side] + scene.dx, PAGE_SIDE / 2 + 1.0 + scene.dy), scene.size, scene.mirrored)
    if scene.class_name == "waves":
        _draw_waves(pen, color, scene, Pen(image, (0.0, 0.0), 1.0))
    else:
        _DRAW[scene.class_name](pen, color, scene)
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BOX))
