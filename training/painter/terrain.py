"""Land and water: everything that is bounded by a line across the picture.

Each function paints onto the canvas and returns its upper edge, (256,) rows, so that the next thing can
stand on it.
"""

import numpy as np

from training.painter.canvas import Canvas, part
from training.painter.noise import ACROSS, COLUMNS, ROWS, SIZE, curve, patch, smoothstep, unit

ROCKS = [(0.42, 0.40, 0.42), (0.50, 0.44, 0.40), (0.36, 0.38, 0.44), (0.46, 0.37, 0.34)]
GRASS = {
    "spring": (0.44, 0.64, 0.22),
    "summer": (0.26, 0.48, 0.16),
    "autumn": (0.66, 0.46, 0.18),
    "winter": (0.90, 0.93, 0.97),
}
FLOWERS = [(0.95, 0.30, 0.30), (0.95, 0.85, 0.30), (0.85, 0.50, 0.90), (0.96, 0.92, 0.95)]
SANDS = [(0.90, 0.70, 0.42), (0.84, 0.56, 0.34), (0.92, 0.78, 0.56)]
SNOW = np.array((1.0, 1.02, 1.06), np.float32)


@part()
def mountain(
    canvas: Canvas, base: float, height: float, far: float, snow: float, rock: np.ndarray, waves: float
):
    """One range of angular peaks. `far` in [0, 1] is its haze, `snow` the upper share of it that is white."""
    profile = unit(curve(canvas.rng, waves, 6, angular=True)) ** 1.15
    if canvas.chance(0.5):  # one peak above the others
        centre, width = canvas.between(0.2, 0.8) * SIZE, canvas.between(0.2, 0.42) * SIZE
        peak = np.clip(1 - np.abs(ACROSS - centre) / width, 0, 1)
        profile = unit(profile * 0.45 + peak * canvas.between(0.5, 0.75))
    ridge = (base - height * profile).astype(np.float32)
    depth = np.maximum(ROWS - ridge[None], 0)
    rough, grain = canvas.noise("rough"), canvas.noise("grain")
    # The slope at the ridge decides which flanks are lit; following it downwards along a wobbling fall line
    # makes gullies out of it.
    smooth_ridge = np.convolve(np.pad(ridge, 3, mode="edge"), np.ones(7) / 7, "valid")
    slope = np.gradient(smooth_ridge) * canvas.lit_from * canvas.texture
    fall = np.clip(COLUMNS + rough * depth * 0.4 + grain, 0, SIZE - 1).astype(np.int32)
    facing = np.tanh(slope * 0.9).astype(np.float32)[fall]
    light = 0.48 + 0.42 * facing * np.exp(-depth / (height * 0.9)) + 0.09 * rough * (1 - far * 0.6)
    colour = canvas.shade(rock * (1 + 0.05 * grain[..., None]), np.clip(light, 0, 1.2))
    if snow > 0:
        altitude = (base - ROWS) / height
        edge = altitude + rough * 0.05 + facing * 0.06 + curve(canvas.rng, 14, 1, angular=True)[None] * 0.05
        white = smoothstep(edge, 1 - snow - 0.04, 1 - snow + 0.04)[..., None]
        colour += (canvas.shade(SNOW, np.clip(light * 1.15, 0, 1.2)) - colour) * white
    valley_haze = 0.4 * far * smoothstep(depth, 0, height * 1.1)[..., None]
    canvas.lay(canvas.into_haze(colour, np.clip(far + valley_haze, 0, 0.92)), canvas.below(ridge))
    return ridge


@part()
def hill(canvas: Canvas, base: float, swell: float, far: float, albedo: np.ndarray, waves=1.5, flowers=False):
    """Rolling ground under a smooth line; `swell` in pixels."""
    ridge = (base + swell * curve(canvas.rng, waves, 3, 0.42)).astype(np.float32)
    depth = np.maximum(ROWS - ridge[None], 0)
    soft, grain = canvas.noise("soft"), canvas.noise("wave") * 0.7
    slope = np.tanh(np.gradient(ridge) * -1.6 * canvas.lit_from)[None] * canvas.texture
    light = (
        0.58
        + 0.5 * slope * np.exp(-depth / 30)
        + 0.10 * soft
        - 0.12 * smoothstep(depth, 0, 90) * canvas.texture
    )
    colour = canvas.shade(albedo * (1 + 0.07 * grain + 0.08 * soft)[..., None], np.clip(light, 0, 1.2))
    if flowers and not canvas.flat:
        blossom = smoothstep(patch(canvas.rng, "rough"), 1.1, 1.5) * smoothstep(depth, 4, 30)
        petals = canvas.shade(np.array(canvas.pick(FLOWERS), np.float32), 0.8)
        colour += (petals - colour) * blossom[..., None] * 0.85
    canvas.lay(canvas.into_haze(colour, far), canvas.below(ridge))
    return ridge


@part()
def dune(canvas: Canvas, base: float, swell: float, far: float, sand: np.ndarray) -> np.ndarray:
    """A dune: a sharp crest with a lit and a shaded side."""
    ridge = (base + swell * curve(canvas.rng, canvas.between(0.8, 2.0), 2, 0.3)).astype(np.float32)
    depth = np.maximum(ROWS - ridge[None], 0)
    slope = np.gradient(ridge) * -canvas.lit_from * canvas.texture
    fall = np.clip(COLUMNS + depth * canvas.between(-0.9, 0.9), 0, SIZE - 1).astype(np.int32)
    ripples = canvas.noise("wave")
    light = 0.55 + 0.55 * np.tanh(slope * 2.2)[fall] * np.exp(-depth / 45) + 0.05 * ripples
    colour = canvas.shade(sand * (1 + 0.03 * ripples[..., None]), np.clip(light, 0, 1.2))
    canvas.lay(canvas.into_haze(colour, far), canvas.below(ridge))
    return ridge


@part("canyon")
def mesas(canvas: Canvas) -> None:
    """Flat-topped red rocks on the horizon."""
    steps = np.clip(curve(canvas.rng, 2.5, 2, 0.4) * 3, -0.6, 1)
    ridge = canvas.horizon - 14 - canvas.horizon * 0.24 * (steps + 0.3) + curve(canvas.rng, 12, 2) * 1.5
    strata = canvas.noise("wave")
    rock = canvas.vary((0.68, 0.36, 0.23), 0.03) * (1 + 0.10 * strata[..., None])
    canvas.lay(canvas.into_haze(canvas.shade(rock, 0.6), 0.25), canvas.below(ridge.astype(np.float32)))


def water_colour(canvas: Canvas) -> np.ndarray:
    return canvas.light.zenith * 0.55 + np.array((0.04, 0.14, 0.20), np.float32) * 0.6


def glitter(canvas: Canvas, colour: np.ndarray, waves: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The path of light that the sun or moon draws on water; `depth` in [0, 1] from the far shore."""
    if canvas.body is None or canvas.flat:
        return colour
    body = canvas.body
    path = np.exp(-(((COLUMNS - body.x) / (body.radius * (1.0 + depth * 2.5))) ** 2))
    path = np.clip(path * smoothstep(waves, -0.2, 1.1) * 0.85, 0, 1)
    return colour + (body.colour - colour) * path[..., None]


@part()
def lake(canvas: Canvas, far_shore: float, near_shore: float) -> None:
    """Still water between two rows, mirroring what has been painted above it."""
    shore = (far_shore + curve(canvas.rng, 1.5, 3) * 2).astype(np.float32)
    mask = canvas.below(shore)
    if near_shore < SIZE:
        near = (near_shore + curve(canvas.rng, 1.6, 3) * 7).astype(np.float32)
        mask = mask * (1 - canvas.below(near))
    deep = water_colour(canvas)
    depth = np.maximum(ROWS - far_shore, 0)
    waves = patch(canvas.rng, "wave")
    ripple = canvas.between(0.3, 1.0) * canvas.texture
    squeeze = canvas.between(0.95, 1.25)
    row = np.clip(far_shore - 1 - depth * squeeze + waves * ripple * (1 + depth * 0.05), 0, SIZE - 1)
    column = np.clip(COLUMNS + waves[::-1] * ripple * (1 + depth * 0.03), 0, SIZE - 1)
    mirrored = canvas.pixels[row.astype(np.int32), column.astype(np.int32)] * 0.86 + deep * 0.10
    if canvas.flat:
        mirrored = np.clip(canvas.light.middle * 0.5 + np.array((0.08, 0.28, 0.55), np.float32) * 0.55, 0, 1)
        canvas.lay(mirrored, mask)
        return
    share = depth / max(SIZE - far_shore, 1)
    colour = mirrored + (deep - mirrored) * (smoothstep(share, 0, 1.3) * 0.5)[..., None]
    colour = colour + (waves * 0.02 * (1 + share))[..., None]
    canvas.lay(glitter(canvas, colour, waves, share), mask)


@part()
def sea(canvas: Canvas, stormy: bool) -> None:
    """Open water from the horizon down, waves growing towards the viewer."""
    top = np.full(SIZE, canvas.horizon, np.float32)
    deep = canvas.vary(canvas.light.zenith * 0.5 + np.array((0.03, 0.16, 0.22), np.float32) * 0.55, 0.02)
    if canvas.flat:
        canvas.lay(np.clip(deep * 1.1 + 0.04, 0, 1), canvas.below(top))
        return
    depth = np.clip((ROWS - canvas.horizon) / (SIZE - canvas.horizon), 0, 1)
    small, large = patch(canvas.rng, "wave"), patch(canvas.rng, "wave")
    large = np.repeat(np.repeat(large[: SIZE // 2, : SIZE // 2], 2, 0), 2, 1)
    waves = small * (0.9 - depth * 0.8) + large * (0.1 + depth * 0.8)
    sheen = (1 - depth[..., None]) ** 2 * 0.55
    colour = canvas.light.horizon * sheen + deep * (1 - sheen)
    colour = colour * (1 + 0.16 * waves * (0.4 + depth))[..., None]
    crests = smoothstep(waves, 1.0, 1.8)[..., None] * (0.45 if stormy else 0.22)
    colour = colour + crests * canvas.light.horizon * (0.3 + depth[..., None])
    canvas.lay(glitter(canvas, colour, waves, depth), canvas.below(top))


def winding_band(canvas: Canvas, start: float, widest: float) -> tuple[np.ndarray, np.ndarray]:
    """A band winding from `start` to the lower edge: its mask and its share of the way, both (256, 256)."""
    way = np.clip((ROWS[:, 0] - start) / max(1.0, SIZE - start), 0, 1)
    left, right = canvas.between(0.3, 0.7) * SIZE, canvas.between(0.2, 0.8) * SIZE
    bends = np.sin(way**0.6 * canvas.between(4.5, 8) + canvas.between(0, 6.3)) * (8 + 34 * way)
    middle = left + (right - left) * way + bends
    half_width = 1.5 + way**1.4 * widest
    inside = np.clip(half_width[:, None] - np.abs(COLUMNS - middle[:, None]) + 0.5, 0, 1)
    return inside * (start <= ROWS), np.broadcast_to(way[:, None], inside.shape)


@part("river")
def river(canvas: Canvas, start: float) -> None:
    mask, way = winding_band(canvas, start, canvas.between(24, 48))
    waves = canvas.noise("wave")
    near = canvas.light.zenith * 0.5 + np.array((0.04, 0.12, 0.18), np.float32)
    share = way[..., None] * 0.65
    colour = canvas.light.horizon * 0.9 * (1 - share) + near * share + waves[..., None] * 0.03
    if canvas.flat:
        colour = np.clip(canvas.light.middle * 0.5 + np.array((0.08, 0.28, 0.55), np.float32) * 0.5, 0, 1)
    canvas.lay(colour, mask)


@part("path")
def path(canvas: Canvas, start: float) -> None:
    mask, _ = winding_band(canvas, start, canvas.between(14, 28))
    earth = np.array((0.66, 0.54, 0.38), np.float32) * (1 + 0.05 * canvas.noise("grain")[..., None])
    canvas.lay(canvas.shade(earth, 0.6), mask * 0.95)


@part("beach")
def beach(canvas: Canvas) -> np.ndarray:
    """Sand along the lower edge, with a line of foam."""
    tilt = (ACROSS / SIZE - 0.5) * canvas.between(-60, 60)
    edge = (SIZE * canvas.between(0.80, 0.92) + tilt + curve(canvas.rng, 2, 3) * 6).astype(np.float32)
    foam = np.exp(-(((ROWS - edge[None] + 2) / 4.0) ** 2)) * 0.85
    canvas.lay(np.clip((canvas.light.ambient + canvas.light.direct) * 0.95, 0, 1), foam)
    grain = canvas.noise("grain")[..., None]
    sand = np.array((0.86, 0.76, 0.56), np.float32) * (1 + 0.03 * grain)
    canvas.lay(canvas.shade(sand, 0.6), canvas.below(edge))
    return edge


@part("cliffs")
def cliff(canvas: Canvas, season: str) -> tuple[np.ndarray, bool]:
    """A grassy cliff falling into the sea; returns its edge and whether it stands on the left."""
    left = canvas.chance(0.5)
    inward = ACROSS if left else ACROSS[::-1]
    fall = np.maximum(0, inward - SIZE * canvas.between(0.22, 0.5)) * canvas.between(2, 4)
    edge = canvas.horizon * canvas.between(0.6, 0.88) + fall + curve(canvas.rng, 5, 4, angular=True) * 5
    edge = edge.astype(np.float32)
    mask = canvas.below(edge)
    strata, rough = canvas.noise("wave").T, canvas.noise("rough")
    rock = canvas.vary(canvas.pick(ROCKS), 0.03) * (1 + 0.16 * strata[..., None])
    canvas.lay(canvas.shade(rock, np.clip(0.5 + 0.2 * rough, 0, 1)), mask)
    turf = smoothstep(11 - (ROWS - edge[None]) + rough * 3, 0, 4) * mask
    canvas.lay(canvas.shade(canvas.vary(GRASS[season]), 0.7), turf)
    return edge, left
