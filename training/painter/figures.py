"""What people like to draw into a landscape: a snowman, a car, a windmill. `add_figure` puts one into a scene.

Each is a small picture of its own, `foot` pixels down and `height` tall; its colours belong to the composition.
"""

from collections.abc import Callable

import numpy as np

from training.painter.canvas import Canvas, part
from training.painter.noise import COLUMNS, ROWS, SIZE, smoothstep
from training.painter.structures import (
    LOUD,
    TIMBER,
    big_boat,
    big_castle,
    big_house,
    bridge,
    fence,
    island,
    lone_tree,
    palm,
    road,
    winding_road,
    windmill,
)
from training.painter.things import Pen

SKINS = [(0.95, 0.78, 0.66), (0.80, 0.58, 0.42), (0.50, 0.33, 0.23)]
SNOW_WHITE = (0.97, 0.98, 1.0)
COAL, CARROT, TYRE = (0.10, 0.10, 0.12), (0.95, 0.50, 0.12), (0.12, 0.12, 0.13)
RAINBOW = [
    (0.88, 0.18, 0.18), (0.95, 0.55, 0.15), (0.97, 0.90, 0.30), (0.30, 0.72, 0.35), (0.25, 0.45, 0.85),
    (0.50, 0.28, 0.70),
]  # fmt: skip


@part("snowman")
def snowman(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """Three balls, a carrot, mostly a hat."""
    hatted, arms = canvas.chance(0.7), canvas.chance(0.7)
    scarf = canvas.pick(LOUD) if canvas.chance(0.4) else None
    if canvas.symbol("snowman", x, foot, height):
        return
    pen = Pen(canvas, 0.0)
    middles = [(0.26, 0.27), (0.62, 0.19), (0.87, 0.135)]
    if arms:
        for side in (-1, 1):
            elbow = (x + side * 0.34 * height, foot - 0.78 * height)
            pen.line(
                [(x + side * 0.12 * height, foot - 0.64 * height), elbow],
                0.025 * height,
                pen.ink(TIMBER, 0.4),
            )
    for up, radius in middles:
        pen.ball(x, foot - up * height, radius * height, radius * height, SNOW_WHITE)
    if scarf is not None:
        pen.box(
            x - 0.13 * height,
            foot - 0.79 * height,
            x + 0.13 * height,
            foot - 0.73 * height,
            pen.ink(scarf, 0.7),
        )
    head = foot - 0.89 * height
    dot = max(0.8, 0.02 * height)
    for side in (-1, 1):
        pen.ellipse(x + side * 0.05 * height, head - 0.03 * height, dot, dot, pen.ink(COAL, 0.3))
    for up in (0.55, 0.63, 0.70):
        pen.ellipse(x, foot - up * height, dot, dot, pen.ink(COAL, 0.3))
    nose = [(x, head), (x + 0.15 * height, head + 0.03 * height), (x, head + 0.045 * height)]
    pen.polygon(nose, pen.ink(CARROT, 0.8))
    if hatted:
        brim = foot - 0.985 * height
        pen.box(x - 0.16 * height, brim - 0.025 * height, x + 0.16 * height, brim, pen.ink(COAL, 0.4))
        pen.box(x - 0.10 * height, brim - 0.17 * height, x + 0.10 * height, brim, pen.ink(COAL, 0.5))
    pen.finish()


@part("person")
def person(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """Somebody standing or walking, seen from afar."""
    shirt, trousers, skin = canvas.pick(LOUD), canvas.pick(LOUD), canvas.pick(SKINS)
    stride, dressed, waving = canvas.between(0.02, 0.12) * height, canvas.chance(0.35), canvas.chance(0.25)
    if canvas.symbol("person", x, foot, height):
        return
    pen = Pen(canvas, 0.0)
    hip, neck = foot - 0.46 * height, foot - 0.80 * height
    for side in (-1, 1):
        ink = pen.ink(trousers, pen.light if side < 0 else pen.dark)
        pen.line(
            [(x + side * 0.04 * height, hip), (x + side * (0.05 * height + stride), foot)],
            0.085 * height,
            ink,
        )
        hand = (x + side * 0.17 * height, neck - 0.12 * height if waving and side > 0 else hip)
        pen.line([(x + side * 0.10 * height, neck + 0.05 * height), hand], 0.055 * height, pen.ink(skin, 0.6))
    if dressed:
        skirt = foot - 0.28 * height
        pen.polygon(
            [
                (x - 0.09 * height, neck),
                (x + 0.09 * height, neck),
                (x + 0.18 * height, skirt),
                (x - 0.18 * height, skirt),
            ],
            pen.ink(shirt, 0.7),
        )
    else:
        pen.box(x - 0.11 * height, neck, x, hip, pen.ink(shirt, pen.light))
        pen.box(x, neck, x + 0.11 * height, hip, pen.ink(shirt, pen.dark))
    pen.ball(x, foot - 0.90 * height, 0.085 * height, 0.10 * height, skin)
    pen.finish()


@part("car")
def car(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """A car from the side, twice as long as it is tall."""
    paint, facing = canvas.pick(LOUD), 1 if canvas.chance(0.5) else -1
    if canvas.symbol("car", x, foot, height):
        return
    pen, half = Pen(canvas, 0.0), height * 1.15

    def at(across: float, up: float) -> tuple[float, float]:
        return x + facing * across * half, foot - up * height

    pen.polygon([at(-0.62, 0.55), at(-0.42, 1.0), at(0.25, 1.0), at(0.55, 0.55)], pen.ink(paint, 0.75))
    body = [at(-1, 0.2), at(-1, 0.55), at(-0.9, 0.62), at(0.6, 0.6), at(0.96, 0.48), at(1, 0.2)]
    pen.polygon(body, pen.ink(paint, 0.6))
    glass = pen.glow if canvas.lamps else pen.ink((0.62, 0.78, 0.88), 0.7)
    pen.polygon([at(-0.52, 0.6), at(-0.38, 0.92), at(-0.1, 0.92), at(-0.1, 0.6)], glass)
    pen.polygon([at(-0.02, 0.6), at(-0.02, 0.92), at(0.21, 0.92), at(0.42, 0.6)], glass)
    for across in (-0.58, 0.6):
        wheel = at(across, 0.2)
        pen.ellipse(*wheel, 0.22 * height, 0.22 * height, pen.ink(TYRE, 0.5))
        pen.ellipse(*wheel, 0.10 * height, 0.10 * height, pen.ink((0.7, 0.7, 0.72), 0.6))
    lamp = at(0.93, 0.42)
    pen.ellipse(
        *lamp,
        0.07 * height,
        0.07 * height,
        (255, 240, 180) if canvas.lamps else pen.ink((0.9, 0.9, 0.8), 0.7),
    )
    pen.finish()


@part("balloon")
def balloon(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """A hot-air balloon with coloured stripes."""
    first, second = canvas.pick(LOUD), canvas.pick(LOUD)
    if canvas.symbol("balloon", x, foot, height):
        return
    pen, radius = Pen(canvas, 0.05), height * 0.33
    middle = foot - height * 0.66
    for side in (-0.5, 0.5):
        pen.line(
            [
                (x + side * radius * 1.2, middle + radius * 0.7),
                (x + side * 0.28 * radius, foot - 0.12 * height),
            ],
            0.6,
            pen.ink(TIMBER, 0.3),
        )
    skirt = [
        (x - 0.86 * radius, middle + 0.5 * radius),
        (x + 0.86 * radius, middle + 0.5 * radius),
        (x + 0.25 * radius, middle + 1.35 * radius),
        (x - 0.25 * radius, middle + 1.35 * radius),
    ]
    pen.polygon(skirt, pen.ink(first, 0.5))
    for k, share in enumerate((1.0, 0.72, 0.44, 0.16)):
        pen.ball(x, middle, radius * share, radius, first if k % 2 == 0 else second)
    pen.box(x - 0.07 * height, foot - 0.12 * height, x + 0.07 * height, foot, pen.ink(TIMBER, 0.6))
    pen.finish()


@part("birds")
def birds(canvas: Canvas, x: float, foot: float, _: float) -> None:
    """A few birds in the sky, each two strokes of a wing."""
    strokes = []
    for _ in range(canvas.rng.integers(3, 9)):
        left, down, wing = x + canvas.between(-70, 70), foot + canvas.between(-34, 24), canvas.between(5, 11)
        lift = wing * canvas.between(0.3, 0.7)
        strokes.append([(left - wing, down - lift), (left - wing / 2, down - lift), (left, down)])
        strokes.append([(left, down), (left + wing / 2, down - lift), (left + wing, down - lift)])
    ink = np.clip(canvas.light.zenith * 0.3, 0, 1) if not canvas.lamps else canvas.light.horizon * 1.4
    canvas.lay(ink, canvas.lines(strokes, 2) * (1 - canvas.land))


@part("rainbow")
def rainbow(canvas: Canvas, x: float, _: float, height: float) -> None:
    """An arch of six colours behind the land."""
    radius, band = height, height * canvas.between(0.035, 0.06)
    distance = np.hypot(COLUMNS - x, ROWS - canvas.horizon)
    strength = 0.9 if canvas.flat else 0.55
    for k, colour in enumerate(RAINBOW):
        ring = smoothstep(band * 0.62 - np.abs(distance - radius + k * band), 0, band * 0.3)
        canvas.lay(np.array(colour, np.float32) * 0.9 + 0.1, ring * strength * (1 - canvas.land))


@part("flowers")
def big_flowers(canvas: Canvas, _: float, __: float, height: float) -> None:
    """A few large flowers at the lower edge."""
    pen = Pen(canvas, 0.0)
    petals, tulips = canvas.pick(LOUD), canvas.chance(0.4)
    for _ in range(canvas.rng.integers(2, 8)):
        left, base = canvas.between(10, SIZE - 10), canvas.between(236, 262)
        top, size = base - height * canvas.between(0.7, 1.2), height * canvas.between(0.14, 0.2)
        pen.line(
            [(left, base), (left + canvas.between(-4, 4), top)],
            max(1.2, height * 0.04),
            pen.ink((0.24, 0.5, 0.2), 0.6),
        )
        if tulips:
            pen.ball(left, top, size * 0.8, size, petals)
            crown = [
                (left - size * 0.8, top),
                (left - size * 0.7, top - size * 1.4),
                (left, top - size * 0.5),
            ]
            pen.polygon(
                [*crown, (left + size * 0.7, top - size * 1.4), (left + size * 0.8, top)],
                pen.ink(petals, 0.7),
            )
            continue
        for angle in np.arange(6) * np.pi / 3:
            pen.ball(
                left + np.cos(angle) * size, top + np.sin(angle) * size, size * 0.62, size * 0.62, petals
            )
        pen.ball(left, top, size * 0.6, size * 0.6, (0.95, 0.78, 0.2))
    pen.finish()


@part("car")
def car_on_road(canvas: Canvas, x: float, foot: float, height: float) -> None:
    road(canvas, foot - height * 0.5, height * 0.9)
    car(canvas, x, foot, height)


SEASONAL: dict[str, Callable[..., None]] = {"house": big_house, "tree": lone_tree}
FIGURES: dict[str, Callable[..., None]] = {
    "snowman": snowman,
    "person": person,
    "car": car_on_road,
    "road": winding_road,
    "balloon": balloon,
    "birds": birds,
    "windmill": windmill,
    "bridge": bridge,
    "fence": fence,
    "rainbow": rainbow,
    "flowers": big_flowers,
    "palm": palm,
    "island": island,
    "castle": big_castle,
    "boat": big_boat,
    **SEASONAL,
}
# Where each can be, and how tall it is; in the sky `foot` is a share of the way down to the horizon, else from there to
# the lower edge.
HEIGHTS = {
    "snowman": (60, 125), "person": (34, 80), "car": (22, 40), "road": (1, 2), "balloon": (46, 96), "birds": (1, 2),
    "windmill": (80, 150), "bridge": (34, 60), "fence": (14, 30), "rainbow": (90, 150), "flowers": (44, 84),
    "palm": (80, 150), "island": (60, 110), "castle": (80, 140), "boat": (50, 100), "house": (52, 96),
    "tree": (80, 160),
}  # fmt: skip
PLACES = {
    "balloon": (0.5, 1.0), "birds": (0.2, 0.6), "windmill": (0.15, 0.5), "castle": (0.08, 0.35), "boat": (0.2, 0.6),
    "island": (0.12, 0.5), "bridge": (0.2, 0.5), "house": (0.2, 0.6), "tree": (0.25, 0.75),
}  # fmt: skip
ABOVE = ("balloon", "birds")
IN_THE_SKY = (*ABOVE, "rainbow")
FITTING = {
    "mountains": (
        "snowman", "person", "balloon", "birds", "bridge", "fence", "rainbow", "house", "castle", "tree", "boat",
        "road",
    ),
    "hills": (
        "snowman", "person", "car", "road", "balloon", "birds", "windmill", "fence", "rainbow", "flowers", "house",
        "castle", "tree",
    ),
    "sea": ("balloon", "birds", "rainbow", "island", "island", "boat", "boat"),
    "desert": ("balloon", "birds", "person", "palm", "road", "car"),
    "forest": ("person", "birds", "fence", "house", "snowman", "road"),
    "city": ("car", "birds", "balloon", "person", "bridge"),
}  # fmt: skip
ON_LAND = ("snowman", "person", "car", "road", "windmill", "fence", "house", "castle", "tree", "flowers")


def subject_for(rng: np.random.Generator, terrain: str, season: str, probability: float = 0.6) -> str:
    """A thing that fits the terrain, or none; no snowman melts."""
    drawn = str(rng.choice(FITTING[terrain]))
    return drawn if rng.random() < probability and (drawn != "snowman" or season == "winter") else ""


def add_figure(canvas: Canvas, thing: str, season: str) -> None:
    """Put a thing of `FIGURES` into the scene."""
    height = canvas.between(*HEIGHTS[thing])
    share = canvas.between(*PLACES.get(thing, (0.35, 0.85)))
    foot = canvas.horizon * share if thing in ABOVE else canvas.horizon + (SIZE - canvas.horizon) * share
    x = canvas.between(0.2, 0.8) * SIZE
    more = (season,) if thing in SEASONAL else ()
    FIGURES[thing](canvas, x, foot, height, *more)
