"""The rows of the evaluation's table that are about img2img: words, layout, things, blotches.

Held-out compositions are drawn or painted in one look and asked for in another.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from training.judge import Judge, targets_of, to_view
from training.measures import blotches
from training.painter.attributes import SEASONAL_TERRAINS, Attributes
from training.painter.captions import SEASON, STYLE_BEFORE, TERRAIN, THINGS, TIME, WEATHER
from training.painter.scenes import choose, compose, paint, paint_composition
from training.painter.sketched import draw
from training.photos import random_view, test_photos
from training.recogniser import THINGS as KNOWN
from training.recogniser import Recogniser, ceiling, scene_with
from training.report import Painter
from training.rows import Row
from training.sketches import DRAWN, sketch
from training.skyline import LEVEL, SkylineReader, check, correlation, painted, rows_of
from training.twins import PAINTED, stylised

SEED = 77
STRENGTHS = (0.5, 0.6, 0.7)
STRENGTH = 0.6
LAYOUT_AIMS = {0.5: 0.90, 0.6: 0.87, 0.7: 0.80}
LAYOUT_STYLES = ("an oil painting", "digital art", "a fantasy painting")
LAYOUT_READ = ("oil", "digital", "fantasy")  # the painter's names for the same
SUBJECTS = {
    "peaks": "mountains with a river",
    "boat": "the sea with a boat at sunset",
    "castle": "a castle on a hill",
    "night": "mountains and a lake at night",
    "house": "a house with trees in summer",
    "dunes": "a desert with a pyramid",
}
HOURS, SEASONS = ("sunset", "night", "dusk", "sunrise"), ("winter", "autumn")
PHOTO_WORDS = ("oil", "watercolor", "pencil")
PHOTO_VIEWS = 4


@dataclass(frozen=True)
class Contradiction:
    """A picture to start from, what is asked for, and which attributes of it the picture contradicts."""

    given: np.ndarray
    wanted: Attributes
    differs: tuple[str, ...]
    subject: str = ""


def prompt_for(attributes: Attributes, subject: str = "") -> str:
    """Every judged attribute said plainly, with the painter's own words."""
    words = [STYLE_BEFORE[attributes.style][0], TERRAIN[attributes.terrain][0]]
    if subject:
        words += ["with", THINGS[subject][0]]
    if attributes.shows_season and attributes.style != "pencil":
        words.append(SEASON[attributes.season][0])
    if attributes.shows_time:
        words.append(TIME[attributes.time][0])
    words.append(WEATHER[attributes.weather][0])
    return " ".join(words)


def contradiction(number: int, drawn: bool) -> Contradiction:
    """A summer's day, drawn or painted, that is asked for at another hour or in another season."""
    rng = np.random.default_rng([SEED, 3, number, drawn])
    given = choose(rng, time="day", season="summer", weather="clear")
    composition = compose(rng, given)
    wanted, differs = replace(given, style=str(rng.choice(PAINTED))), ("time",)
    if given.terrain in SEASONAL_TERRAINS and number % 3 == 0:
        wanted, differs = replace(wanted, season=SEASONS[number % len(SEASONS)]), ("season",)
    else:
        wanted = replace(wanted, time=HOURS[number % len(HOURS)])
    if drawn:
        return Contradiction(draw(composition, given, rng)[0], wanted, differs)
    style = str(rng.choice([style for style in PAINTED if style != wanted.style]))
    painting = paint_composition(composition, replace(given, style=style), rng)
    return Contradiction(painting.pixels, wanted, (*differs, "style"))


def img2img(painter: Painter, cases: list[Contradiction], strength: float = STRENGTH) -> np.ndarray:
    made = [
        painter.from_image(
            Image.fromarray(case.given), [prompt_for(case.wanted, case.subject)], [n], strength
        )[0]
        for n, case in enumerate(cases)
    ]
    return np.stack([np.asarray(picture) for picture in made])


@torch.inference_mode()
def seen(judge: Judge, pictures: np.ndarray, cases: list[Contradiction]) -> float:
    """The share of the contradicted attributes that the judge sees as they were asked for."""
    scores = judge(to_view(pictures))
    targets = targets_of([case.wanted for case in cases])
    right = [
        bool(scores[name][n].argmax() == targets[name][n])
        for n, case in enumerate(cases)
        for name in case.differs
        if targets[name][n] >= 0
    ]
    return float(np.mean(right))


def words_rows(painter: Painter, judge: Judge, count: int) -> list[Row]:
    rows = []
    for drawn, name, aim in ((True, "a sketch", 0.9), (False, "a painting", 0.85)):
        cases = [contradiction(number, drawn) for number in range(count)]
        rngs = (np.random.default_rng([SEED, 4, n]) for n in range(count))
        pairs = zip(rngs, cases, strict=True)
        true = np.stack([paint(rng, **labels_of(case.wanted)).pixels for rng, case in pairs])
        ours, ceiling_ = seen(judge, img2img(painter, cases), cases), seen(judge, true, cases)
        figure = f"{ours:.0%} (painter {ceiling_:.0%})"
        rows.append(Row(f"words seen against {name}, strength 0.6", figure, f"≥ {aim:.0%}", ours >= aim))
    return rows


def photograph_row(painter: Painter, judge: Judge) -> Row:
    """Views of the held-out photographs asked for in three styles; how a judge of photographs sees the painter's own
    filter is the ceiling."""
    made, true, cases = [], [], []
    for photo in test_photos(512).values():
        for view in range(PHOTO_VIEWS):
            pixels = random_view(np.random.default_rng([SEED, 7, view]), photo, 256)
            for n, style in enumerate(PHOTO_WORDS):
                cases.append(Contradiction(pixels, Attributes("", "", "", "", style), ("style",)))
                prompt = STYLE_BEFORE[style][0].removesuffix(" of")
                made.append(
                    np.asarray(painter.from_image(Image.fromarray(pixels), [prompt], [n], STRENGTH)[0])
                )
                true.append(stylised(np.random.default_rng([SEED, 5, n]), pixels, style))
    ours, most = (seen(judge, np.stack(pictures), cases) for pictures in (made, true))
    figure = f"{ours:.0%} of {len(cases)} (painter's filter {most:.0%})"
    return Row("style seen over a photograph, strength 0.6", figure, "≥ 85 %", ours >= 0.85)


def labels_of(attributes: Attributes) -> dict[str, str]:
    return {name: getattr(attributes, name) for name in ("terrain", "time", "weather", "season", "style")}


@dataclass(frozen=True)
class LayoutCase:
    """A picture to start from, words that fit it, and its true skyline, (64,) rows of 64, where that is known."""

    image: Image.Image
    words: str
    skyline: np.ndarray | None = None


def layout_cases(scenes: int) -> list[LayoutCase]:
    """The drawn sketches, and flat painter pictures as sketches."""
    cases = [LayoutCase(sketch(name), SUBJECTS[name]) for name in DRAWN]
    for number in range(scenes):
        rng = np.random.default_rng([SEED, 2, number])
        terrain = str(rng.choice(SEASONAL_TERRAINS[:2]))
        painting = paint(rng, style="flat", terrain=terrain, weather="clear", time="day")
        skyline = rows_of(painting.skyline[None])[0]
        cases.append(LayoutCase(Image.fromarray(painting.pixels), TERRAIN[terrain][0], skyline))
    return cases


def layout_rows(painter: Painter, reader: SkylineReader, scenes: int, read: int) -> list[Row]:
    """Skylines before and after img2img at three strengths, and the blotches in the skies of strength 0.6."""
    kept: dict[float, list[float]] = {strength: [] for strength in STRENGTHS}
    spots: list[float] = []
    for number, case in enumerate(layout_cases(scenes)):
        theirs = reader.read(np.asarray(case.image)[None])[0] if case.skyline is None else case.skyline
        prompt = f"{LAYOUT_STYLES[number % len(LAYOUT_STYLES)]} of {case.words}"
        for strength in STRENGTHS:
            made = painter.from_image(case.image, [prompt] * 2, [number, number + 100], strength)
            pictures = np.stack([np.asarray(picture) for picture in made])
            if theirs.std() >= LEVEL:
                kept[strength] += [correlation(ours, theirs) or 0.0 for ours in reader.read(pictures)]
            if strength == STRENGTH:
                found = [blotches(picture, theirs) for picture in pictures]
                spots += [value for value in found if value is not None]
    clear = {"weather": "clear", "time": "day", "terrain": "mountains"}
    reads = float(np.mean([check(reader, read, SEED, style=style, **clear) for style in LAYOUT_READ]))
    rows = []
    for strength, aim in LAYOUT_AIMS.items():
        value = float(np.mean(kept[strength]))
        note = (
            f" (the reader against the painter's true skylines: {reads:.2f})" if strength == STRENGTH else ""
        )
        rows.append(
            Row(f"layout kept, strength {strength}", f"{value:.3f}{note}", f"≥ {aim:.2f}", value >= aim)
        )
    figure = (
        f"{np.mean(spots):.1f} (clouds, suns and all; the painter's own {painter_blotches(read, clear):.1f})"
    )
    return [*rows, Row("blotches in a plain sky", figure, "≤ 4", bool(np.mean(spots) <= 4))]


def painter_blotches(count: int, labels: dict[str, str]) -> float:
    """The same measure on the painter's own pictures in these styles: what a faultless model would have."""
    found = []
    for style in LAYOUT_READ:
        pictures, skylines = painted(count, SEED, style=style, **labels)
        found += [blotches(*pair) for pair in zip(pictures, rows_of(skylines), strict=True)]
    return float(np.mean([value for value in found if value is not None]))


def things_row(painter: Painter, recogniser: Recogniser, count: int) -> Row:
    """Sketches about one thing each, asked for by name: is it still seen there?"""
    pictures, boxes, wanted = [], [], []
    number = 0
    while len(wanted) < count:
        rng = np.random.default_rng([SEED, 6, number])
        thing = KNOWN[number % len(KNOWN)]
        number += 1
        painting = scene_with(rng, thing, time="day", weather="clear", style="digital")
        if painting is None:
            continue
        drawn, _ = draw(painting.composition, painting.attributes, rng)
        look = replace(painting.attributes, style=str(rng.choice(PAINTED)))
        prompt = prompt_for(look, thing)
        made = painter.from_image(Image.fromarray(drawn), [prompt], [number], STRENGTH)[0]
        pictures.append(np.asarray(made))
        boxes.append(painting.places[thing])
        wanted.append(thing)
    named = recogniser.names(pictures, boxes)
    ours = float(np.mean([one == other for one, other in zip(named, wanted, strict=True)]))
    figure = (
        f"{ours:.0%} of {count} (in the painter's own pictures {ceiling(recogniser, 2 * count, SEED):.0%})"
    )
    return Row("things recognised, strength 0.6", figure, "≥ 80 %", ours >= 0.8)
