"""The canvas that the parts of a scene paint on: pixels, the light of the hour, and a few ways to put colour down.

Two generators keep what is where apart from how it looks. `rng` composes: places, sizes, contours, local colours.
`look` is drawn from inside `by_look` alone: the sky of the hour, stars, rain, brush strokes. So that a scene keeps its
contours in every look, no draw of the composition may depend on hour, season, weather or style, except as the last
ones of a `part`, whose chance is its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from training.painter.noise import ROWS, SIZE, patch

Colour = np.ndarray | tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """Sky colours from the zenith down, and what falls on the land. All RGB in [0, 1]."""

    zenith: np.ndarray
    middle: np.ndarray
    horizon: np.ndarray
    ambient: np.ndarray
    direct: np.ndarray

    @property
    def haze(self) -> np.ndarray:
        return self.horizon * 0.6 + self.middle * 0.4


@dataclass(frozen=True)
class Body:
    """The sun or the moon: centre and radius in pixels."""

    x: float
    y: float
    radius: float
    colour: np.ndarray


@dataclass
class Canvas:
    """`pixels` (256, 256, 3) float32, about [0, 1]; `texture` scales every noise and shadow (0 = flat
    colours).
    """

    rng: np.random.Generator
    look: np.random.Generator
    light: Light
    horizon: float
    texture: float = 1.0
    lamps: bool = False
    lit_from: int = 1
    body: Body | None = None
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((SIZE, SIZE, 3), np.float32))
    things: list[str] = field(default_factory=list)
    land: np.ndarray = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.float32))
    """How much of each pixel is covered by what was laid on the sky, in [0, 1]."""
    owner: np.ndarray = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.uint8))
    """Which named thing shows at each pixel: its place in `things`, plus 1; 0 for none."""
    parts: set[str] = field(default_factory=set)
    """The things among `things` that `owner` knows."""
    painting: int = 0
    """The thing that is being painted, counted alike."""

    @contextmanager
    def part(self, thing: str = "") -> Iterator[None]:
        """Paint one part, `thing` if it has a name, with chance of its own: whatever it draws, what follows stays."""
        outer, around = self.rng, self.painting
        self.rng = np.random.default_rng(outer.integers(2**63))
        if thing:
            self.note(thing)
            self.parts.add(thing)
            self.painting = self.things.index(thing) + 1
        try:
            yield
        finally:
            self.rng, self.painting = outer, around

    @contextmanager
    def by_look(self) -> Iterator[None]:
        """Here chance decides only the look."""
        outer, self.rng = self.rng, self.look
        try:
            yield
        finally:
            self.rng = outer

    def symbol(self, kind: str, x: float, foot: float, height: float) -> bool:  # noqa: ARG002 (sketches use them)
        """Whether this canvas has drawn a sign of its own for a thing, as a sketch does; a painting has none."""
        return False

    @property
    def flat(self) -> bool:
        return self.texture == 0.0

    def noise(self, name: str) -> np.ndarray:
        """A (256, 256) patch scaled by the canvas's texture."""
        return patch(self.rng, name) * np.float32(self.texture)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def vary(self, colour: Colour, spread: float = 0.04) -> np.ndarray:
        """`colour` with a little chance in it."""
        return np.clip(np.asarray(colour) + self.rng.normal(0, spread, 3), 0, 1).astype(np.float32)

    def note(self, thing: str) -> None:
        if thing not in self.things:
            self.things.append(thing)

    def lay(self, colour: Colour, mask: np.ndarray, window: tuple[slice, slice] | None = None) -> None:
        """Blend `colour` (one colour or a picture) over the pixels, where `mask` in [0, 1] says so."""
        target = self.pixels if window is None else self.pixels[window]
        target += (np.asarray(colour, np.float32) - target) * mask[..., None]
        covered = self.land if window is None else self.land[window]
        np.maximum(covered, mask, out=covered, casting="same_kind")
        owner = self.owner if window is None else self.owner[window]
        owner[mask > 0.5] = self.painting

    def lay_drawn(self, colour: np.ndarray, mask: np.ndarray) -> None:
        """Blend a finished drawing of many colours over the pixels."""
        self.lay(colour, mask)

    def fill_sky(self) -> None:
        """The air, from the zenith down to the horizon."""
        light = self.light
        height = np.clip(ROWS[:, :1] / self.horizon, 0, 1)[..., None]
        upper = light.zenith + (light.middle - light.zenith) * np.minimum(height / 0.6, 1)
        self.pixels[:] = upper + (light.horizon - light.middle) * np.maximum(height - 0.6, 0) / 0.4

    def shown(self, thing: str) -> np.ndarray:
        """(256, 256) bool: where a named part can be seen."""
        return self.owner == self.things.index(thing) + 1

    def skyline(self) -> np.ndarray:
        """(256,): the first row of each column that is land, 256 where none is."""
        land = self.land > 0.5
        return np.where(land.any(0), land.argmax(0), SIZE)

    def shade(self, albedo: np.ndarray, sunlight: np.ndarray | float) -> np.ndarray:
        """Surface colour under the scene's light; `sunlight` is the lit share, about [0, 1]."""
        sunlight = np.asarray(sunlight, np.float32)[..., None]
        return albedo * (self.light.ambient + self.light.direct * sunlight)

    def into_haze(self, colour: np.ndarray, amount: np.ndarray | float) -> np.ndarray:
        """Aerial perspective: fade towards the colour of the horizon."""
        return colour + (self.light.haze - colour) * np.asarray(amount, np.float32)

    def below(self, line: np.ndarray) -> np.ndarray:
        """Mask of everything under a line given as a row for each column, antialiased."""
        return np.clip(ROWS - line[None] + 0.5, 0, 1)

    def lines(self, lines: list[list[tuple[float, float]]], width: int) -> np.ndarray:
        """Mask of polylines."""
        sheet = Image.new("L", (SIZE, SIZE), 0)
        pen = ImageDraw.Draw(sheet)
        for line in lines:
            pen.line(line, fill=255, width=width, joint="curve")
        return np.asarray(sheet, np.float32) / 255


P = ParamSpec("P")
R = TypeVar("R")


def part(
    thing: str = "",
) -> Callable[[Callable[Concatenate[Canvas, P], R]], Callable[Concatenate[Canvas, P], R]]:
    """Makes a function that paints on a canvas a `Canvas.part`."""

    def wrap(paint: Callable[Concatenate[Canvas, P], R]) -> Callable[Concatenate[Canvas, P], R]:
        @wraps(paint)
        def painted(canvas: Canvas, *args: P.args, **kwargs: P.kwargs) -> R:
            with canvas.part(thing):
                return paint(canvas, *args, **kwargs)

        return painted

    return wrap
