"""Compositions: which parts make a picture of mountains, of the sea, of a city, and in what order they
are painted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from training.painter import figures, sky, styles, terrain, things
from training.painter.attributes import CHOICES, WEIGHTS, Attributes
from training.painter.canvas import Canvas
from training.painter.noise import SIZE, curve

C = TypeVar("C", bound=Canvas)
LEAST_SHOWN = 25  # pixels that a thing must show to be named


@dataclass(frozen=True)
class Painting:
    """`pixels`: (256, 256, 3) uint8; `skyline`: (256,), the row where each column's sky ends; `places`: the box (left,
    top, right, bottom) in which a thing can be seen, for things that are somewhere.
    """

    pixels: np.ndarray
    attributes: Attributes
    skyline: np.ndarray
    places: dict[str, tuple[int, int, int, int]]
    composition: "Composition"


@dataclass(frozen=True)
class Composition:
    """What is where in a scene: one composition has the same contours at every hour, in every season, weather and
    style. `low_sun`: the sun or moon stands just above the horizon. `subject`: a thing of `figures` that must be in it.
    """

    seed: int
    terrain: str
    low_sun: bool
    subject: str = ""


def compose(rng: np.random.Generator, attributes: Attributes, subject: str = "") -> Composition:
    """A composition by chance for this terrain; the sun stands low where the hour wants it."""
    low_sun = attributes.time in ("sunset", "sunrise")
    subject = subject or figures.subject_for(rng, attributes.terrain, attributes.season)
    return Composition(int(rng.integers(2**63)), attributes.terrain, low_sun, subject)


def paint(rng: np.random.Generator, subject: str = "", **requested: str) -> Painting:
    """Paint one scene; `requested` fixes any of terrain, time, weather, season, style, the rest is drawn by
    chance.
    """
    attributes = choose(rng, **requested)
    return paint_composition(compose(rng, attributes, subject), attributes, rng)


def prepare(
    kind: type[C], composition: Composition, attributes: Attributes, look: np.random.Generator, **more: Any
) -> C:
    """An empty canvas for this composition, lit for this look."""
    rng = np.random.default_rng(composition.seed)
    low, high = HORIZONS.get(composition.terrain, (0.44, 0.66))
    return kind(
        rng=rng,
        look=look,
        light=sky.light_of(look, attributes.time, attributes.weather, attributes.style == "fantasy"),
        horizon=rng.uniform(low, high) * SIZE,
        texture=0.0 if attributes.style == "flat" else 1.0,
        lamps=attributes.time in ("dusk", "night") or attributes.weather == "storm",
        lit_from=1 if rng.random() < 0.5 else -1,
        **more,
    )


def put_together(canvas: Canvas, composition: Composition, attributes: Attributes) -> np.ndarray:
    """Paint sky, land and things; returns the skyline. Afterwards `canvas.land` is what is not sky."""
    sky.paint_sky(canvas, attributes.time, attributes.weather, composition.low_sun)
    canvas.land[:] = 0  # the sun and the clouds are not land
    COMPOSITIONS[composition.terrain](canvas, attributes, composition.subject)
    land = canvas.land.copy()
    if composition.subject:
        figures.add_figure(canvas, composition.subject, attributes.season)
    if composition.subject in figures.IN_THE_SKY:
        canvas.land = land
    return canvas.skyline()


def paint_composition(
    composition: Composition, attributes: Attributes, look: np.random.Generator
) -> Painting:
    """Paint a composition in the look that `attributes` names; chance in `look` decides only the look.

    Raises ValueError where the terrains differ.
    """
    if composition.terrain != attributes.terrain:
        raise ValueError(f"This composition is of {composition.terrain}, not of {attributes.terrain}")
    canvas = prepare(Canvas, composition, attributes, look)
    skyline = put_together(canvas, composition, attributes)
    with canvas.by_look():
        sky.paint_mist(canvas, attributes.weather)
        sky.paint_rain(canvas, attributes.weather)
    pixels = styles.finish(canvas, attributes.style)
    places = {
        thing: box_of(mask) for thing in canvas.parts if (mask := canvas.shown(thing)).sum() >= LEAST_SHOWN
    }
    seen = tuple(thing for thing in canvas.things if thing in places or thing not in canvas.parts)
    return Painting(pixels, replace(attributes, things=seen), skyline, places, composition)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask's true pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def choose(rng: np.random.Generator, **requested: str) -> Attributes:
    """Attributes by chance, weighted, with rare pairings (a storm at sunrise) made rarer still."""
    unknown = set(requested) - set(CHOICES)
    if unknown:
        raise ValueError(f"no such attribute: {', '.join(sorted(unknown))}")
    drawn = {}
    for name, options in CHOICES.items():
        weights = np.array(WEIGHTS[name], float)
        drawn[name] = str(rng.choice(options, p=weights / weights.sum()))
    if drawn["weather"] in ("storm", "fog") and drawn["time"] != "day" and rng.random() < 0.6:
        drawn["weather"] = "clear"
    for name, value in requested.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}")
    return Attributes(**{**drawn, **requested})


def mountains(canvas: Canvas, attributes: Attributes, subject: str) -> None:
    season, horizon = attributes.season, canvas.horizon
    deep, caps = canvas.between(0.55, 0.9), canvas.between(0.2, 0.45) * canvas.chance(0.5)
    snow = deep if season == "winter" else caps
    if snow:
        canvas.note("snow")
    rock = canvas.vary(canvas.pick(terrain.ROCKS), 0.03)
    if attributes.style == "fantasy":
        rock = rock * 0.7 + np.array((0.42, 0.30, 0.56), np.float32) * 0.3
    ranges = int(canvas.rng.integers(1, 4))
    for i in range(ranges):
        far = 0.60 * (1 - (i + 0.5) / ranges) + 0.05
        height = horizon * canvas.between(0.48, 0.80) * (1 - 0.24 * i)
        waves = canvas.between(1.6, 2.8) + 0.6 * i
        terrain.mountain(canvas, horizon + 4, height, far, snow, rock * (1 - 0.1 * i), waves)
    foreground = canvas.rng.choice(
        ["lake", "river", "meadow", "wood", "castle", "village"], p=[0.28, 0.15, 0.15, 0.14, 0.18, 0.10]
    )
    foreground = WANTED_FRONT.get(subject, foreground)
    needles = canvas.chance(0.6)
    grass = canvas.vary(terrain.GRASS[season], 0.03)
    if foreground in ("lake", "meadow", "river") and canvas.chance(0.5):
        line = horizon + curve(canvas.rng, 2, 3) * 2
        things.treeline(canvas, line, canvas.between(9, 16), 0.25, season, needles)
    FOREGROUNDS[foreground](canvas, season, grass, needles)


def lake_front(canvas: Canvas, season: str, grass: np.ndarray, needles: bool) -> None:
    horizon = canvas.horizon
    near = SIZE + 20 if canvas.chance(0.45) else horizon + (SIZE - horizon) * canvas.between(0.5, 0.8)
    canvas.pixels[int(horizon) :] = canvas.pixels[int(horizon) - 1]
    terrain.lake(canvas, horizon, near)
    canvas.note("lake")
    if near < SIZE:
        bank = terrain.hill(canvas, near + 3, 5, 0.0, grass, waves=2, flowers=blooming(canvas, season))
        if canvas.chance(0.6):
            span = (0.0, 0.35) if canvas.chance(0.5) else (0.65, 1.0)
            count = int(canvas.rng.integers(2, 6))
            things.grove(canvas, bank - 6, count, (36, 90), season, needles, span)
    elif canvas.chance(0.5):
        row = horizon + (SIZE - horizon) * canvas.between(0.3, 0.6)
        things.boat(canvas, canvas.between(0.2, 0.8) * SIZE, row, canvas.between(26, 46))


def river_front(canvas: Canvas, season: str, grass: np.ndarray, needles: bool) -> None:
    ground = terrain.hill(canvas, canvas.horizon + 3, 7, 0.12, grass)
    terrain.river(canvas, canvas.horizon + 5)
    if canvas.chance(0.5):
        things.grove(canvas, ground, int(canvas.rng.integers(2, 8)), (18, 64), season, needles)


def meadow_front(canvas: Canvas, season: str, grass: np.ndarray, needles: bool) -> None:
    horizon = canvas.horizon
    terrain.hill(canvas, horizon + 3, 8, 0.16, grass * 0.95)
    row = horizon + (SIZE - horizon) * canvas.between(0.25, 0.45)
    ground = terrain.hill(canvas, row, 12, 0.04, grass, flowers=blooming(canvas, season))
    canvas.note("meadow")
    if canvas.chance(0.35):
        terrain.path(canvas, row + 8)
    if canvas.chance(0.6):
        things.grove(canvas, ground - 6, int(canvas.rng.integers(2, 8)), (22, 70), season, needles)


def wood_front(canvas: Canvas, season: str, grass: np.ndarray, needles: bool) -> None:
    ground = terrain.hill(canvas, canvas.horizon + 4, 6, 0.12, grass * 0.9)
    things.treeline(canvas, ground + 3, canvas.between(12, 20), 0.18, season, needles)
    tallest = canvas.between(60, 115)
    things.grove(canvas, ground, int(canvas.rng.integers(8, 18)), (24, tallest), season, needles)


def castle_front(canvas: Canvas, season: str, grass: np.ndarray, needles: bool) -> None:
    ground = terrain.hill(canvas, canvas.horizon + 2, 9, 0.08, grass)
    x = canvas.between(0.22, 0.78) * SIZE
    things.castle(canvas, x, ground[int(x)] + 5, canvas.between(56, 104), 0.06)
    if canvas.chance(0.5):
        terrain.path(canvas, canvas.horizon + 10)
    if canvas.chance(0.5):
        things.grove(canvas, ground + 8, int(canvas.rng.integers(3, 8)), (20, 56), season, needles)


def village_front(canvas: Canvas, season: str, grass: np.ndarray, needles: bool) -> None:
    ground = terrain.hill(canvas, canvas.horizon + 4, 6, 0.08, grass)
    count = int(canvas.rng.integers(2, 5))
    places = (np.arange(count) + canvas.rng.uniform(0.2, 0.8, count)) / count * 0.9 + 0.05
    for place, down in sorted(
        zip(places, canvas.rng.uniform(10, 40, count), strict=True), key=lambda spot: spot[1]
    ):
        x = place * SIZE
        things.house(canvas, x, ground[int(x)] + down, 18 + down * 0.5, 0.04, season)
    canvas.note("village" if count > 2 else "house")
    if canvas.chance(0.6):
        things.grove(canvas, ground, int(canvas.rng.integers(2, 7)), (20, 46), season, needles)


# What the land in front of mountains must be for a thing of `figures`.
WANTED_FRONT = dict.fromkeys(figures.ON_LAND, "meadow") | {"bridge": "river", "boat": "lake"}
FOREGROUNDS = {
    "lake": lake_front,
    "river": river_front,
    "meadow": meadow_front,
    "wood": wood_front,
    "castle": castle_front,
    "village": village_front,
}


def blooming(canvas: Canvas, season: str) -> bool:
    """Flowers: mostly in spring, which is then told by them."""
    chance = {"spring": 0.8, "summer": 0.15}.get(season, 0.0)
    if canvas.rng.random() < chance:
        canvas.note("flowers")
        return True
    return False


def hills(canvas: Canvas, attributes: Attributes, _: str) -> None:
    season, horizon = attributes.season, canvas.horizon
    if canvas.chance(0.3):
        rock = canvas.vary(canvas.pick(terrain.ROCKS), 0.03)
        snow = 0.5 if season == "winter" else 0.0
        terrain.mountain(canvas, horizon, horizon * canvas.between(0.18, 0.32), 0.6, snow, rock, 2.4)
    grass = canvas.vary(terrain.GRASS[season], 0.03)
    straw, lilac = canvas.vary((0.86, 0.68, 0.28), 0.03), canvas.vary((0.52, 0.34, 0.72), 0.02)
    wheat = canvas.chance(0.2) and season in ("summer", "autumn")
    lavender = canvas.chance(0.15) and season == "summer" and not wheat
    if wheat:
        grass = straw
        canvas.note("wheat")
    count = int(canvas.rng.integers(2, 5))
    flowers = blooming(canvas, season if not wheat and not lavender else "winter")
    for i in range(count):
        share = i / count
        albedo = grass * (0.85 + 0.15 * share)
        if lavender and i >= count - 2:
            albedo = lilac
            canvas.note("lavender")
        row = horizon + (SIZE - horizon) * share * 0.8
        ground = terrain.hill(
            canvas, row, 14 - 4 * share, 0.32 * (1 - share) ** 2, albedo, canvas.between(1, 2.2), flowers
        )
        if i == 0 and canvas.chance(0.5):
            things.treeline(canvas, ground + 2, canvas.between(9, 14), 0.25, season, False)
        if i == count - 2 and canvas.chance(0.4):
            x = canvas.between(0.18, 0.82) * SIZE
            things.house(canvas, x, ground[int(x)] + 8, canvas.between(28, 46), 0.04, season)
            canvas.note("house")
        elif i == count - 2 and canvas.chance(0.3):
            x = canvas.between(0.22, 0.78) * SIZE
            things.castle(canvas, x, ground[int(x)] + 5, canvas.between(56, 92), 0.06)
    if canvas.chance(0.35):
        terrain.path(canvas, horizon + (SIZE - horizon) * 0.3)
    elif canvas.chance(0.2):
        terrain.river(canvas, horizon + (SIZE - horizon) * 0.2)
    if canvas.chance(0.75):
        tallest = canvas.between(56, 100)
        needles = canvas.chance(0.2)
        things.grove(canvas, ground - 14, int(canvas.rng.integers(1, 7)), (30, tallest), season, needles)


def sea(canvas: Canvas, attributes: Attributes, subject: str) -> None:
    horizon = canvas.horizon
    if canvas.chance(0.35):
        rock = canvas.vary(canvas.pick(terrain.ROCKS), 0.03)
        terrain.mountain(canvas, horizon + 1, horizon * canvas.between(0.15, 0.42), 0.45, 0.0, rock, 1.6)
        canvas.note("islands")
    canvas.pixels[int(horizon) :] = canvas.light.middle
    terrain.sea(canvas, attributes.weather == "storm")
    roll = canvas.rng.random() if subject not in ("island", "boat") else 1.0
    water = (0.22, 0.78)
    if roll < 0.3:
        edge = terrain.beach(canvas)
        if canvas.chance(0.3):
            span = (0.0, 0.3) if canvas.chance(0.5) else (0.7, 1.0)
            things.grove(canvas, edge, int(canvas.rng.integers(1, 3)), (46, 90), "summer", False, span)
    elif roll < 0.52:
        edge, left = terrain.cliff(canvas, "summer")
        water = (0.74, 0.86) if left else (0.14, 0.26)
        if canvas.chance(0.65):
            inward = int(SIZE * canvas.between(0.08, 0.18))
            x = inward if left else SIZE - inward
            things.lighthouse(canvas, x, edge[x] + 4, canvas.between(54, 92))
    if canvas.chance(0.5):
        row = horizon + (SIZE - horizon) * canvas.between(0.1, 0.42)
        things.boat(canvas, canvas.between(*water) * SIZE, row, canvas.between(28, 64))


def desert(canvas: Canvas, _: Attributes, __: str) -> None:
    horizon = canvas.horizon
    sand = canvas.vary(canvas.pick(terrain.SANDS), 0.03)
    roll = canvas.rng.random()
    if roll < 0.3:
        terrain.mesas(canvas)
    elif roll < 0.55:
        for place in (0.25, 0.55, 0.8)[: canvas.rng.integers(1, 4)]:
            x = (place + canvas.between(-0.12, 0.12)) * SIZE
            things.pyramid(canvas, x, horizon + 8, canvas.between(32, 76))
    count = int(canvas.rng.integers(2, 5))
    for i in range(count):
        share = i / count
        row = horizon + (SIZE - horizon) * share * 0.85
        terrain.dune(canvas, row, 5 + 15 * share, 0.3 * (1 - share) ** 2, sand)
    canvas.note("dunes")
    if canvas.chance(0.25):
        for _ in range(canvas.rng.integers(1, 4)):
            foot = canvas.between(horizon + 36, SIZE - 8)
            things.cactus(canvas, canvas.between(0.06, 0.94) * SIZE, foot, canvas.between(30, 62))


def forest(canvas: Canvas, attributes: Attributes, _: str) -> None:
    season, horizon = attributes.season, canvas.horizon
    needles = canvas.chance(0.45)
    count = int(canvas.rng.integers(2, 4))
    for i in range(count):
        share = i / count
        line = horizon + 2 + share * 10 + curve(canvas.rng, 1.5, 3) * 4
        height = (34 + 36 * (1 - share)) * canvas.between(0.9, 1.4)
        things.treeline(canvas, line, height, 0.5 * (1 - share) + 0.06, season, needles)
    ground = terrain.hill(
        canvas, horizon, 4, 0.04, canvas.vary(terrain.GRASS[season]) * 0.9, flowers=blooming(canvas, season)
    )
    roll = canvas.rng.random()
    if roll < 0.4:
        terrain.path(canvas, horizon + 2)
    elif roll < 0.6:
        terrain.river(canvas, horizon + 2)
    if canvas.chance(0.15):
        things.house(canvas, canvas.between(0.3, 0.7) * SIZE, horizon + 22, canvas.between(34, 52), 0, season)
        canvas.note("house")
    things.grove(canvas, ground, int(canvas.rng.integers(4, 11)), (70, 160), season, needles)


def city(canvas: Canvas, _: Attributes, subject: str) -> None:
    horizon = canvas.horizon
    for i in range(3):
        far = 0.55 - 0.25 * i
        things.city_blocks(canvas, horizon, horizon * 0.66 * (1 - 0.24 * i), far)
    if subject == "bridge" or (subject not in figures.ON_LAND and canvas.chance(0.6)):
        canvas.pixels[int(horizon) :] = canvas.pixels[int(horizon) - 1]
        terrain.lake(canvas, horizon, SIZE + 20)
        canvas.note("river")
    else:
        grass = canvas.vary(terrain.GRASS["summer"]) * 0.85
        ground = terrain.hill(canvas, horizon, 3, 0.04, grass)
        things.grove(canvas, ground, int(canvas.rng.integers(3, 8)), (22, 50), "summer", False)


HORIZONS = {"forest": (0.60, 0.78), "city": (0.60, 0.78)}
COMPOSITIONS: dict[str, Callable[[Canvas, Attributes, str], None]] = {
    "mountains": mountains,
    "hills": hills,
    "sea": sea,
    "desert": desert,
    "forest": forest,
    "city": city,
}
