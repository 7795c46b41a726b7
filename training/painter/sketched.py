"""A composition as somebody draws it in a minute, with a mouse or a felt pen: what img2img is given.

`draw` renders a `Composition` by a `Hand`; its contours are those of every painting of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.painter import styles
from training.painter.attributes import Attributes
from training.painter.canvas import Canvas, Colour
from training.painter.noise import ROWS, SIZE, patch
from training.painter.scenes import Composition, prepare, put_together
from training.painter.signs import SIGNS, Crayons, Ink, Sign, crayons

# How readily a careless hand leaves a part out.
SPARED = {"trees": 0.4, "birds": 0.4, "fence": 0.3, "path": 0.3, "flowers": 0.3, "road": 0.2, "clouds": 0.5}
PAPER = 0.97
LEAST_OUTLINED = 40  # pixels


@dataclass(frozen=True)
class Hand:
    """How somebody draws. `tolerance`: how far a contour may be cut short, in pixels, and `wobble`: how far it strays;
    `spread`: how far a colour is from the true one; `careless`: how much is left out, in [0, 1]; `childish`: how often
    a thing becomes a sign; `filled`: how many areas are coloured in at all; `few`: how many colours there are, or None;
    `outline`: the pen's width in pixels, or 0.
    """

    tolerance: float
    wobble: float
    spread: float
    saturation: float
    careless: float
    childish: float
    filled: float
    few: int | None
    outline: int
    ink: Ink
    wrong: float
    soft: float
    uneven: float


def some_hand(rng: np.random.Generator) -> Hand:
    """By chance: half of them draw within three pixels, and most leave nothing out."""
    exact, outlined = rng.random() < 0.55, rng.random() < 0.4
    on_paper = outlined and rng.random() < 0.35
    dark = int(rng.integers(0, 60))
    return Hand(
        tolerance=rng.uniform(1, 3) if exact else rng.uniform(3, 8),
        wobble=rng.uniform(0, 1.0) if exact else rng.uniform(0.5, 2.5),
        spread=float(rng.choice([0.03, 0.08, 0.14])),
        saturation=rng.uniform(0.7, 1.8),
        careless=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
        childish=float(rng.choice([0.0, 0.5, 1.0])),
        filled=rng.uniform(0.1, 0.6) if on_paper else 1.0,
        few=int(rng.integers(5, 11)) if rng.random() < 0.3 else None,
        outline=int(rng.choice([1, 3, 5])) if outlined else 0,
        ink=(dark, dark, int(dark * rng.uniform(0.8, 1.6))),
        wrong=0.12 if rng.random() < 0.25 else 0.0,
        soft=rng.uniform(0.3, 1.1) if rng.random() < 0.4 else 0.0,
        uneven=rng.uniform(0.03, 0.08) if rng.random() < 0.25 else 0.0,
    )


@dataclass(kw_only=True)
class SketchCanvas(Canvas):
    """Lays flat colours with simple contours; `draws` is the chance of the hand, apart from the composition's."""

    hand: Hand
    draws: np.random.Generator
    box: Crayons
    muted: int = 0
    regions: np.ndarray = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.int32))
    """What was laid last at each pixel, counted from 1: a felt pen goes around it, also on white paper."""

    @contextmanager
    def part(self, thing: str = "") -> Iterator[None]:
        left_out = self.draws.random() < SPARED.get(thing, 0.0) * self.hand.careless
        self.muted += left_out
        try:
            with super().part(thing):
                yield
        finally:
            self.muted -= left_out

    def fill_sky(self) -> None:
        light, draws = self.light, self.draws
        first = light.middle * draws.uniform(0.3, 1) + light.zenith * draws.uniform(0, 0.5)
        self.pixels[:] = sky = self.crayon(np.clip(first, 0, 1))
        roll = draws.random()
        if roll < 0.25:  # a ramp, or two bands
            share = np.clip(ROWS / self.horizon, 0, 1)
            ramp = share if roll < 0.15 else (share > draws.uniform(0.3, 0.8)).astype(np.float32)
            self.pixels[:] = sky + (self.crayon(light.horizon) - sky) * ramp[..., None]

    def below(self, line: np.ndarray) -> np.ndarray:
        return super().below(simplified(line, self.hand.tolerance))

    def crayon(self, colour: np.ndarray) -> np.ndarray:
        """The crayon that the hand takes for this colour."""
        hand, draws = self.hand, self.draws
        if draws.random() > hand.filled:
            return np.full(3, PAPER, np.float32)
        if draws.random() < hand.wrong:
            return draws.random(3).astype(np.float32)
        near = colour * draws.uniform(1 - 2 * hand.spread, 1 + 2 * hand.spread)
        near = near + draws.normal(0, hand.spread / 2, 3)
        grey = near.mean()
        return np.clip(grey + (near - grey) * hand.saturation, 0, 1).astype(np.float32)

    def lay(self, colour: Colour, mask: np.ndarray, window: tuple[slice, slice] | None = None) -> None:
        solid = mask > 0.5
        if self.muted or not solid.any():
            return
        sharp = np.clip((mask - 0.5) * 4 + 0.5, 0, 1)
        paint = np.asarray(colour, np.float32)
        super().lay(self.flattened(paint, solid) if paint.ndim == 3 else self.crayon(paint), sharp, window)
        self.mark(solid, window)

    def mark(self, solid: np.ndarray, window: tuple[slice, slice] | None = None) -> None:
        if solid.sum() >= LEAST_OUTLINED:
            region = self.regions if window is None else self.regions[window]
            region[solid] = self.regions.max() + 1

    def flattened(self, picture: np.ndarray, solid: np.ndarray) -> np.ndarray:
        """One crayon for a picture, or two where it has a bright and a dark part, as snow on rock."""
        seen = picture[solid]
        bright = seen.mean(-1)
        if bright.max() - bright.min() < 0.3:
            return self.crayon(seen.mean(0))
        middle = (bright.max() + bright.min()) / 2
        high, low = (self.crayon(seen[where].mean(0)) for where in (bright > middle, bright <= middle))
        return np.where((picture.mean(-1) > middle)[..., None], high, low)

    def lay_drawn(self, colour: np.ndarray, mask: np.ndarray) -> None:
        if not self.muted:
            grey = colour.mean(-1, keepdims=True)
            super().lay(np.clip(grey + (colour - grey) * self.hand.saturation, 0, 1), mask)
            self.mark(mask > 0.5)

    def symbol(self, kind: str, x: float, foot: float, height: float) -> bool:
        if self.muted:
            return True
        if kind not in SIGNS or self.draws.random() > self.hand.childish:
            return False
        sheet = Image.new("RGBA", (2 * SIZE, 2 * SIZE), (0, 0, 0, 0))
        SIGNS[kind](Sign(ImageDraw.Draw(sheet), self.box, x, foot, height))
        drawn = np.asarray(sheet.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255
        Canvas.lay(self, drawn[..., :3] / np.maximum(drawn[..., 3:], 1e-3), drawn[..., 3])
        return True  # a sign has its own outlines


def simplified(line: np.ndarray, tolerance: float) -> np.ndarray:
    """A line through its most telling points, at most `tolerance` off (the idea of Douglas and Peucker 1973)."""
    at, knots = np.arange(len(line)), [0, len(line) - 1]
    for _ in range(40):
        rough = np.interp(at, knots, line[knots])
        error = np.abs(rough - line)
        if error.max() < tolerance:
            break
        knots = sorted({*knots, int(error.argmax())})
    return np.interp(at, knots, line[knots]).astype(np.float32)


def draw(
    composition: Composition, attributes: Attributes, rng: np.random.Generator, hand: Hand | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The composition drawn by `hand` or some hand, in the colours of `attributes`: (256, 256, 3) uint8 and its
    skyline, (256,).
    """
    hand = hand or some_hand(rng)
    box = crayons(rng, hand.ink if hand.outline else None, 2 * hand.outline)
    plain = replace(attributes, style="flat")
    canvas = prepare(SketchCanvas, composition, plain, rng, hand=hand, draws=rng, box=box)
    skyline = put_together(canvas, composition, plain)
    regions = np.repeat(canvas.regions[..., None], 3, -1)
    return by_hand(np.clip(canvas.pixels, 0, 1), regions, hand, rng), skyline


def by_hand(pixels: np.ndarray, regions: np.ndarray, hand: Hand, rng: np.random.Generator) -> np.ndarray:
    """What a hand does to flat colours as a whole: wobble, few colours, uneven strokes, and outlines around `regions`,
    (256, 256, 3) of numbers or colours.
    """
    both = styles.wobbled(np.concatenate([pixels, regions], -1), rng, hand.wobble)
    image = styles.to_image(both[..., :3])
    if hand.few:
        image = image.quantize(hand.few, method=Image.Quantize.MEDIANCUT).convert("RGB")
    if hand.outline:
        line = Image.fromarray(styles.edges(both[..., 3:]) > 0.04).convert("L")
        image.paste(
            hand.ink, mask=line.filter(ImageFilter.MaxFilter(hand.outline)) if hand.outline > 1 else line
        )
    if hand.soft:
        image = image.filter(ImageFilter.GaussianBlur(hand.soft))
    made = np.asarray(image, np.float32)
    if hand.uneven:
        made = made * (1 + hand.uneven * patch(rng, "wave")[..., None])
    return np.clip(made, 0, 255).astype(np.uint8)


def posterised(pixels: np.ndarray, rng: np.random.Generator, hand: Hand | None = None) -> np.ndarray:
    """A finished picture reduced to a few flat patches, as if traced: (256, 256, 3) uint8 from the same."""
    image = Image.fromarray(pixels).filter(ImageFilter.MedianFilter(int(rng.choice([5, 7, 9]))))
    image = image.quantize(int(rng.integers(5, 10)), method=Image.Quantize.MEDIANCUT).convert("RGB")
    image = image.filter(ImageFilter.ModeFilter(int(rng.choice([7, 11]))))
    flat = np.asarray(image, np.float32) / 255
    return by_hand(flat, flat, hand or some_hand(rng), rng)
