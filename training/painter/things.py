"""Things that stand in a scene: trees, buildings, boats. Sizes and places are in pixels; `foot` is the
row it stands on.
"""

import numpy as np
from PIL import Image, ImageDraw

from training.painter.canvas import Canvas, part
from training.painter.noise import COLUMNS, ROWS, SIZE, patch, smoothstep
from training.painter.terrain import SNOW

CROWNS = {
    "spring": [(0.42, 0.62, 0.22), (0.93, 0.66, 0.75), (0.48, 0.66, 0.26)],
    "summer": [(0.18, 0.38, 0.14), (0.22, 0.44, 0.16), (0.14, 0.32, 0.14)],
    "autumn": [(0.84, 0.42, 0.10), (0.76, 0.24, 0.10), (0.88, 0.64, 0.16)],
    "winter": [(0.82, 0.86, 0.90), (0.66, 0.72, 0.78), (0.74, 0.79, 0.84)],
}
NEEDLES = (0.10, 0.25, 0.15)
STONES = [(0.62, 0.58, 0.56), (0.74, 0.70, 0.62), (0.54, 0.52, 0.58)]
TOWER_ROOFS = [(0.50, 0.20, 0.20), (0.22, 0.30, 0.52), (0.38, 0.18, 0.44), (0.27, 0.27, 0.32)]
WALLS = [(0.86, 0.80, 0.70), (0.72, 0.46, 0.36), (0.82, 0.83, 0.84), (0.58, 0.40, 0.27)]
ROOFS = [(0.66, 0.26, 0.18), (0.44, 0.29, 0.20), (0.36, 0.37, 0.44)]
LAMPLIGHT = (1.0, 0.84, 0.47)


def window_around(x: float, top: float, foot: float, reach: float) -> tuple[slice, slice] | None:
    """The part of the canvas that a thing can touch; None when that is nothing."""
    left, right = int(max(0, x - reach - 1)), int(min(SIZE, x + reach + 2))
    upper, lower = int(max(0, top)), int(min(SIZE, foot + 1))
    return (slice(upper, lower), slice(left, right)) if right - left > 1 and lower - upper > 1 else None


def crown_colour(canvas: Canvas, season: str, conifer: bool) -> np.ndarray:
    return canvas.vary(NEEDLES if conifer else canvas.pick(CROWNS[season]), 0.03)


@part()
def conifer(canvas: Canvas, x: float, foot: float, height: float, far: float, season: str) -> None:
    """A fir: tiers of branches narrowing upwards, white-edged in winter."""
    half = height * canvas.between(0.22, 0.30)
    if canvas.symbol("fir", x, foot, height):
        return
    window = window_around(x, foot - height, foot, half)
    if window is None:
        return
    y, across = ROWS[window], COLUMNS[window] - x
    down = (y - (foot - height)) / (height * 0.93)
    tier = (down * canvas.rng.integers(3, 6)) % 1.0
    reach = half * np.clip(down * 0.7 + 0.3 * tier * np.sqrt(np.clip(down, 0, 1)), 0, 1) * (down <= 1)
    reach = np.maximum(reach, np.where(down > 1, height * 0.035, 0.5))
    mask = np.clip(reach - np.abs(across) + 0.5, 0, 1)
    side = across / np.maximum(reach, 0.5) * canvas.lit_from
    light = 0.5 + canvas.texture * (0.36 * side + 0.30 * (tier - 0.6))
    colour = canvas.shade(crown_colour(canvas, season, True), np.clip(light, 0, 1.1))
    if season == "winter":
        snow = canvas.shade(SNOW, np.clip(light, 0, 1.1))
        colour = colour + (snow - colour) * (smoothstep(tier, 0.35, 0.7) * 0.8)[..., None]
    canvas.lay(canvas.into_haze(colour, far), mask, window)


@part()
def broadleaf(canvas: Canvas, x: float, foot: float, height: float, far: float, season: str) -> None:
    """A round tree: trunk and a ragged crown lit from above and from the sun's side."""
    half = height * canvas.between(0.36, 0.52)
    if canvas.symbol("tree", x, foot, height):
        return
    middle = foot - height * 0.62
    window = window_around(x, foot - height * 1.12, foot, half * 1.3)
    if window is None:
        return
    y, across = ROWS[window], COLUMNS[window] - x
    trunk = np.clip(height * 0.045 + 0.8 - np.abs(across), 0, 1) * (y > middle)
    bark = canvas.shade(np.array((0.30, 0.21, 0.14), np.float32), 0.4)
    canvas.lay(canvas.into_haze(bark, far), trunk, window)
    rows, columns = window[0].stop - window[0].start, window[1].stop - window[1].start
    ragged = patch(canvas.rng, "rough")[:rows, :columns]
    rough = ragged * canvas.texture
    out = np.hypot(across / half, (y - middle) / (height * 0.42))
    mask = smoothstep(1.03 - out + ragged * 0.12, 0, 0.12)
    light = 0.5 + canvas.texture * (
        0.32 * across / half * canvas.lit_from - 0.34 * (y - middle) / (height * 0.42)
    )
    colour = canvas.shade(crown_colour(canvas, season, False), np.clip(light + 0.18 * rough, 0, 1.15))
    canvas.lay(canvas.into_haze(colour, far), mask, window)


@part("trees")
def treeline(canvas: Canvas, foot: np.ndarray, height: float, far: float, season: str, needles: bool) -> None:
    """A distant wood as one serrated band along `foot`, (256,) rows."""
    count = int(900 / max(height, 6)) + 6
    at = canvas.rng.uniform(-8, SIZE + 8, count)[:, None]
    tall = height * canvas.rng.uniform(0.6, 1.1, count)[:, None]
    across = np.arange(SIZE)[None] - at
    if needles:
        tops = np.clip(1 - np.abs(across) / (tall * 0.32), 0, 1) * tall
    else:
        tops = np.sqrt(np.clip(1 - (across / (tall * 0.62)) ** 2, 0, 1)) * tall
    top = (foot - tops.max(0) - height * 0.15).astype(np.float32)
    mask = canvas.below(top) * np.clip(foot[None] + height * 0.35 - ROWS, 0, 1)
    grain = canvas.noise("rough")
    light = 0.6 - 0.4 * canvas.texture * (ROWS - top[None]) / height + 0.12 * grain
    colour = canvas.shade(
        crown_colour(canvas, season, needles) * (1 + 0.1 * grain[..., None]), np.clip(light, 0, 1)
    )
    if season == "winter" and needles:
        colour = colour * 0.6 + canvas.shade(SNOW, 0.6) * 0.4
    canvas.lay(canvas.into_haze(colour, far), mask)


@part("trees")
def grove(
    canvas: Canvas,
    ground: np.ndarray,
    count: int,
    sizes: tuple[float, float],
    season: str,
    needles: bool,
    span=(0.0, 1.0),
):
    """Trees standing about on the ground, the small ones far away."""
    low, high = sizes
    plant = conifer if needles else broadleaf
    for height in np.sort(canvas.rng.uniform(low, high, count)):
        x = canvas.between(*span) * SIZE
        near = (height - low) / (high - low + 1e-6)
        foot = (
            ground[int(np.clip(x, 0, SIZE - 1))]
            + 3
            + near * (SIZE - canvas.horizon) * 0.5 * canvas.between(0.5, 1.2)
        )
        plant(canvas, x, foot, height, 0.14 * (1 - near), season)


class Pen:
    """Draws polygons in lit colours on a transparent sheet, then lays the sheet on the canvas."""

    def __init__(self, canvas: Canvas, far: float) -> None:
        self.canvas, self.far = canvas, far
        self.scale = 2  # drawn at twice the size, for smooth edges
        self.sheet = Image.new("RGBA", (SIZE * 2, SIZE * 2), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.sheet)
        self.light, self.dark = (
            (0.95, 0.35) if canvas.lit_from < 0 else (0.35, 0.95)
        )  # left faces, right faces
        self.glow = (
            tuple(int(v * 255) for v in LAMPLIGHT) if canvas.lamps else self.ink((0.16, 0.16, 0.22), 0.4)
        )

    def ink(self, albedo, sunlight: float) -> tuple[int, int, int]:
        shaded = self.canvas.shade(np.asarray(albedo, np.float32), sunlight)
        lit = np.clip(self.canvas.into_haze(shaded, self.far), 0, 1)
        return tuple(int(v * 255) for v in lit)

    def polygon(self, points, ink) -> None:
        self.draw.polygon([(x * self.scale, y * self.scale) for x, y in points], fill=ink)

    def ellipse(self, x: float, y: float, across: float, down: float, ink) -> None:
        """`across` and `down` are its radii."""
        corners = (x - across, y - down, x + across, y + down)
        self.draw.ellipse([value * self.scale for value in corners], fill=ink)

    def ball(self, x: float, y: float, across: float, down: float, albedo) -> None:
        """A round body, lit from the sun's side and from above."""
        steps = 1 if self.canvas.flat else 7
        for k in range(steps):
            share = k / steps
            size, shift = 1 - 0.85 * share, 0.34 * share
            ink = self.ink(albedo, 0.6 if self.canvas.flat else 0.25 + 0.75 * share)
            side = self.canvas.lit_from * shift * across
            self.ellipse(x + side, y - shift * down, across * size, down * size, ink)

    def line(self, points, width: float, ink) -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self.draw.line(scaled, fill=ink, width=max(1, round(width * self.scale)), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, ink) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], ink)

    def finish(self) -> None:
        small = np.asarray(self.sheet.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255
        self.canvas.lay_drawn(small[..., :3], small[..., 3])


@part("castle")
def castle(canvas: Canvas, x: float, foot: float, height: float, far: float) -> None:
    if canvas.symbol("castle", x, foot, height):
        return
    pen = Pen(canvas, far)
    stone, roof = canvas.pick(STONES), canvas.pick(TOWER_ROOFS)
    width = height * canvas.between(0.85, 1.2)
    wall = height * 0.36
    pen.box(x - width / 2, foot - wall, x, foot + 4, pen.ink(stone, pen.light * 0.9))
    pen.box(x, foot - wall, x + width / 2, foot + 4, pen.ink(stone, pen.dark * 0.9))
    merlon = height * 0.06
    for k in range(int(width / merlon / 2)):
        left = x - width / 2 + 2 * k * merlon
        pen.box(left, foot - wall - merlon, left + merlon, foot - wall, pen.ink(stone, 0.6))
    towers = [
        (-0.5, 0.66),
        (0.5, 0.62),
        (canvas.between(-0.2, 0.2), 0.82),
        (canvas.between(-0.35, 0.35), 0.55),
    ]
    for offset, tall in towers[: canvas.rng.integers(3, 5)]:
        middle, half = x + offset * width, height * canvas.between(0.09, 0.13)
        top = foot - height * tall * canvas.between(0.92, 1.05)
        pen.box(middle - half, top, middle, foot + 3, pen.ink(stone, pen.light))
        pen.box(middle, top, middle + half, foot + 3, pen.ink(stone, pen.dark))
        peak = (middle, top - half * canvas.between(2.2, 3.0))
        pen.polygon([(middle - half * 1.3, top), peak, (middle, top)], pen.ink(roof, pen.light))
        pen.polygon([(middle, top), peak, (middle + half * 1.3, top)], pen.ink(roof, pen.dark))
        slit = max(1.0, height * 0.018)
        pen.box(middle - slit, top + half, middle + slit, top + half + 4 * slit, pen.glow)
    pen.box(
        x - height * 0.06, foot - height * 0.17, x + height * 0.06, foot + 3, pen.ink((0.2, 0.15, 0.12), 0.4)
    )
    pen.finish()


@part()
def house(canvas: Canvas, x: float, foot: float, height: float, far: float, season: str) -> None:
    if canvas.symbol("house", x, foot, height):
        return
    pen = Pen(canvas, far)
    wall, roof = canvas.pick(WALLS), canvas.pick(ROOFS)
    if season == "winter":
        roof = (0.95, 0.97, 1.0)
    w = height * canvas.between(0.75, 1.0)
    eave = foot - height * 0.55
    pen.box(x - w, eave, x + w * 0.1, foot, pen.ink(wall, pen.light))
    gable = [(x + w * 0.1, foot), (x + w * 0.1, eave), (x + w * 0.5, foot - height), (x + w * 0.9, eave)]
    pen.polygon([*gable, (x + w * 0.9, foot)], pen.ink(wall, pen.dark))
    ridge = [(x - w * 1.1, foot - height * 0.5), (x - w * 0.75, foot - height), (x + w * 0.5, foot - height)]
    pen.polygon([*ridge, (x + w * 0.1, foot - height * 0.5)], pen.ink(roof, pen.light))
    for k in (-0.75, -0.35):
        pen.box(x + w * k, foot - height * 0.4, x + w * k + height * 0.2, foot - height * 0.18, pen.glow)
    pen.box(x + w * 0.4, foot - height * 0.32, x + w * 0.62, foot, pen.ink((0.3, 0.2, 0.15), 0.5))
    pen.finish()


@part("lighthouse")
def lighthouse(canvas: Canvas, x: float, foot: float, height: float) -> None:
    pen = Pen(canvas, 0.02)
    half = height * 0.12
    for band in range(5):
        paint = (0.92, 0.90, 0.88) if band % 2 == 0 else (0.78, 0.18, 0.15)
        low, high = (foot - height * 0.78 * (band + k) / 5 for k in (0, 1))
        wide, narrow = (half * (1.25 - 0.5 * (band + k) / 5) for k in (0, 1))
        pen.polygon([(x - wide, low), (x - narrow, high), (x, high), (x, low)], pen.ink(paint, pen.light))
        pen.polygon([(x, low), (x, high), (x + narrow, high), (x + wide, low)], pen.ink(paint, pen.dark))
    lamp = (255, 236, 150) if canvas.lamps else pen.ink((0.9, 0.9, 0.8), 0.7)
    pen.box(x - half * 0.6, foot - height * 0.9, x + half * 0.6, foot - height * 0.78, lamp)
    pen.polygon(
        [(x - half, foot - height * 0.9), (x, foot - height), (x + half, foot - height * 0.9)],
        pen.ink((0.5, 0.15, 0.15), 0.6),
    )
    pen.finish()


@part("boat")
def boat(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """A sailing boat; `foot` is its waterline."""
    if canvas.symbol("boat", x, foot, height):
        return
    pen = Pen(canvas, 0.03)
    deck, keel = foot - height * 0.14, foot + height * 0.06
    hull = [
        (x - height * 0.5, deck),
        (x + height * 0.5, deck),
        (x + height * 0.34, keel),
        (x - height * 0.36, keel),
    ]
    pen.polygon(hull, pen.ink(canvas.pick([(0.46, 0.25, 0.15), (0.22, 0.20, 0.26), (0.60, 0.18, 0.14)]), 0.6))
    sail = canvas.pick([(0.96, 0.94, 0.89), (0.96, 0.94, 0.89), (0.82, 0.30, 0.22)])
    mast = foot - height * 0.2
    pen.box(x - height * 0.015, foot - height, x + height * 0.015, deck, pen.ink((0.3, 0.2, 0.12), 0.5))
    pen.polygon(
        [(x + 1, foot - height), (x + 1, mast), (x + height * 0.46, mast)], pen.ink(sail, max(pen.dark, 0.5))
    )
    pen.polygon(
        [(x - 1, foot - height * 0.9), (x - 1, mast), (x - height * 0.38, mast)],
        pen.ink(sail, max(pen.light, 0.5)),
    )
    pen.finish()


@part("pyramids")
def pyramid(canvas: Canvas, x: float, foot: float, height: float) -> None:
    pen = Pen(canvas, 0.15)
    stone, peak = (0.85, 0.66, 0.42), (x, foot - height)
    pen.polygon([(x - height, foot), peak, (x + height * 0.3, foot)], pen.ink(stone, pen.light))
    pen.polygon([(x + height * 0.3, foot), peak, (x + height, foot)], pen.ink(stone, pen.dark * 0.7))
    pen.finish()


@part("cactus")
def cactus(canvas: Canvas, x: float, foot: float, height: float) -> None:
    arm = height * 0.25
    limbs = [
        [(x, foot), (x, foot - height)],
        [(x - arm, foot - height * 0.75), (x - arm, foot - height * 0.45), (x, foot - height * 0.42)],
        [(x + arm, foot - height * 0.85), (x + arm, foot - height * 0.55), (x, foot - height * 0.50)],
    ]
    colour = canvas.shade(np.array((0.20, 0.42, 0.20), np.float32), 0.6)
    canvas.lay(colour, canvas.lines(limbs, int(height * 0.11 + 2)))


@part()
def city_blocks(canvas: Canvas, foot: float, tall: float, far: float) -> None:
    """One row of towers across the picture."""
    pen = Pen(canvas, far)
    x = -6.0
    while x < SIZE:
        width, height = canvas.between(14, 32), tall * canvas.between(0.35, 1.0)
        wall = canvas.vary((0.46, 0.46, 0.52), 0.05)
        pen.box(x, foot - height, x + width, foot + 8, pen.ink(wall, canvas.between(0.3, 0.8)))
        if canvas.chance(0.2):
            pen.box(
                x + width * 0.45, foot - height * 1.18, x + width * 0.55, foot - height, pen.ink(wall, 0.5)
            )
        if far < 0.4:
            pane = pen.glow if canvas.lamps else pen.ink(wall * 0.62, 0.5)
            with canvas.part():
                for row in np.arange(foot - height + 5, foot - 4, 8):
                    for column in np.arange(x + 3, x + width - 4, 6):
                        if canvas.chance(0.5 if canvas.lamps else 0.9):
                            pen.box(column, row, column + 3, row + 4, pane)
        x += width + canvas.between(0, 5)
    pen.finish()
