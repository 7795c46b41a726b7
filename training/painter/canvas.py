"""The canvas that the parts of a scene paint on: pixels, the light of the hour, and a few ways to put
colour down.
"""

from dataclasses import dataclass, field

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
