"""The signs that people draw for things, as a child draws them: a fir of three triangles, a man of sticks.

Each draws with a Pillow pen scaled by 2 around (`x`, `foot`), `height` tall, with the crayons it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Ink = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Crayons:
    """`line` is None where nothing is outlined; `width` in pixels of the sheet."""

    line: Ink | None
    width: int
    colours: tuple[Ink, ...]


@dataclass(frozen=True)
class Sign:
    """A sheet and where on it: `at(0, 0)` is the foot, `at(0, 1)` the top."""

    pen: ImageDraw.ImageDraw
    crayons: Crayons
    x: float
    foot: float
    height: float

    def at(self, across: float, up: float) -> Point:
        return 2 * (self.x + across * self.height), 2 * (self.foot - up * self.height)

    def shape(self, points: list[Point], colour: Ink) -> None:
        places = [self.at(*point) for point in points]
        self.pen.polygon(places, fill=colour)
        if self.crayons.line:
            self.pen.line(
                [*places, places[0]], fill=self.crayons.line, width=self.crayons.width, joint="curve"
            )

    def disc(self, across: float, up: float, radius: float, colour: Ink, tall: float = 1.0) -> None:
        left, top = self.at(across - radius, up + radius * tall)
        right, bottom = self.at(across + radius, up - radius * tall)
        line = self.crayons.line
        self.pen.ellipse(
            (left, top, right, bottom), fill=colour, outline=line, width=self.crayons.width if line else 0
        )

    def stroke(self, points: list[Point], colour: Ink, width: float) -> None:
        thick = max(self.crayons.width, round(2 * width * self.height))
        self.pen.line([self.at(*point) for point in points], fill=colour, width=thick, joint="curve")


def fir(sign: Sign) -> None:
    green, brown, *_ = sign.crayons.colours
    sign.shape([(-0.04, 0), (0.04, 0), (0.04, 0.2), (-0.04, 0.2)], brown)
    for low, high, half in ((0.12, 0.55, 0.30), (0.38, 0.78, 0.24), (0.62, 1.0, 0.17)):
        sign.shape([(-half, low), (0, high), (half, low)], green)


def tree(sign: Sign) -> None:
    green, brown, *_ = sign.crayons.colours
    sign.shape([(-0.06, 0), (0.06, 0), (0.05, 0.5), (-0.05, 0.5)], brown)
    sign.disc(0, 0.66, 0.34, green)


def house(sign: Sign) -> None:
    wall, roof, dark, *_ = sign.crayons.colours[2:]
    sign.shape([(-0.5, 0), (-0.5, 0.55), (0.5, 0.55), (0.5, 0)], wall)
    sign.shape([(-0.62, 0.53), (0, 1.0), (0.62, 0.53)], roof)
    sign.shape([(0.05, 0), (0.05, 0.34), (0.24, 0.34), (0.24, 0)], dark)
    sign.shape([(-0.35, 0.2), (-0.35, 0.4), (-0.12, 0.4), (-0.12, 0.2)], dark)


def castle(sign: Sign) -> None:
    wall, roof, dark, *_ = sign.crayons.colours[2:]
    sign.shape([(-0.5, 0), (-0.5, 0.42), (0.5, 0.42), (0.5, 0)], wall)
    for across, tall in ((-0.5, 0.68), (0.5, 0.68), (0.0, 0.78)):
        sign.shape(
            [(across - 0.13, 0), (across - 0.13, tall), (across + 0.13, tall), (across + 0.13, 0)], wall
        )
        sign.shape([(across - 0.17, tall), (across, tall + 0.24), (across + 0.17, tall)], roof)
    sign.shape([(-0.07, 0), (-0.07, 0.2), (0.07, 0.2), (0.07, 0)], dark)


def boat(sign: Sign) -> None:
    hull, sail, dark, *_ = sign.crayons.colours[3:]
    sign.shape([(-0.5, 0.16), (0.5, 0.16), (0.34, -0.05), (-0.34, -0.05)], hull)
    sign.stroke([(0, 0.16), (0, 1.0)], dark, 0.03)
    sign.shape([(0.03, 1.0), (0.03, 0.22), (0.46, 0.22)], sail)


def snowman(sign: Sign) -> None:
    white, dark, orange = (250, 250, 252), (25, 25, 28), (240, 130, 30)
    for up, radius in ((0.26, 0.26), (0.62, 0.19), (0.88, 0.13)):
        sign.disc(0, up, radius, white)
    for across in (-0.05, 0.05):
        sign.disc(across, 0.92, 0.018, dark)
    sign.shape([(0, 0.9), (0.16, 0.87), (0, 0.85)], orange)


def person(sign: Sign) -> None:
    line = sign.crayons.line or sign.crayons.colours[4]
    shirt = sign.crayons.colours[3]
    for foot in (-0.14, 0.14):
        sign.stroke([(0, 0.42), (foot, 0)], line, 0.05)
    sign.stroke([(-0.2, 0.5), (0, 0.72), (0.2, 0.5)], line, 0.05)
    sign.stroke([(0, 0.42), (0, 0.78)], shirt, 0.12)
    sign.disc(0, 0.89, 0.11, (240, 205, 175))


def car(sign: Sign) -> None:
    paint, glass, dark = sign.crayons.colours[3], (190, 220, 240), (30, 30, 32)
    sign.shape([(-0.7, 0.5), (-0.45, 1.0), (0.35, 1.0), (0.65, 0.5)], glass)
    sign.shape([(-1.15, 0.18), (-1.15, 0.55), (1.15, 0.55), (1.15, 0.18)], paint)
    for across in (-0.65, 0.65):
        sign.disc(across, 0.2, 0.22, dark)


def balloon(sign: Sign) -> None:
    first, _, dark, *_ = sign.crayons.colours[3:]
    for across in (-0.22, 0.22):
        sign.stroke([(across, 0.45), (across * 0.3, 0.1)], dark, 0.015)
    sign.disc(0, 0.67, 0.33, first)
    sign.shape([(-0.08, 0), (-0.08, 0.13), (0.08, 0.13), (0.08, 0)], sign.crayons.colours[1])


def windmill(sign: Sign) -> None:
    wall, roof, dark, *_ = sign.crayons.colours[2:]
    sign.shape([(-0.18, 0), (-0.11, 0.72), (0.11, 0.72), (0.18, 0)], wall)
    sign.shape([(-0.14, 0.72), (0, 0.87), (0.14, 0.72)], roof)
    for across, up in ((0.3, 0.3), (-0.3, 0.3), (0.3, -0.3), (-0.3, -0.3)):
        sign.stroke([(0, 0.74), (across, 0.74 + up)], dark, 0.05)


def palm(sign: Sign) -> None:
    green, brown, *_ = sign.crayons.colours
    sign.stroke([(0, 0), (0.04, 0.45), (0.12, 0.8)], brown, 0.07)
    for across, up in ((-0.3, 0.75), (-0.22, 0.95), (0.12, 1.05), (0.46, 0.95), (0.5, 0.72)):
        sign.stroke([(0.12, 0.82), (across, up)], green, 0.07)


SIGNS: dict[str, Callable[[Sign], None]] = {
    "fir": fir,
    "tree": tree,
    "house": house,
    "castle": castle,
    "boat": boat,
    "snowman": snowman,
    "person": person,
    "car": car,
    "balloon": balloon,
    "windmill": windmill,
    "palm": palm,
}
LOUD = np.array(
    [
        (210, 50, 40),
        (240, 190, 50),
        (60, 100, 200),
        (60, 150, 80),
        (235, 120, 40),
        (150, 70, 160),
        (245, 245, 245),
    ]
)


def crayons(hand: np.random.Generator, line: Ink | None, width: int) -> Crayons:
    """A box of crayons: green, brown, a wall's, two loud ones, a dark one."""

    def near(*colour: int) -> Ink:
        red, green, blue = np.clip(np.array(colour) + hand.normal(0, 18, 3), 0, 255)
        return int(red), int(green), int(blue)

    loud = [near(*LOUD[k]) for k in hand.permutation(len(LOUD))[:2]]
    dark = near(60, 40, 35)
    return Crayons(
        line, width, (near(50, 130, 60), near(110, 70, 40), near(220, 190, 150), loud[0], dark, loud[1], dark)
    )
