"""Twins: one composition in several looks, painted and sketched, with captions that say what tells them apart.

img2img is given one picture and wants another of the same contours. So pictures come in groups of `GROUP`: paintings
of one composition in other hours, seasons and styles, then sketches of it. A second kind of group is of no landscape: a
photograph or a generic picture, its stylised selves, and tracings of it.
"""

from dataclasses import dataclass, replace

import numpy as np

from training.painter import captions, styles
from training.painter.attributes import SEASONS, STYLES, TIMES, Attributes
from training.painter.canvas import Canvas
from training.painter.generic import paint_generic
from training.painter.scenes import Composition, choose, compose, paint_composition
from training.painter.sketched import draw, posterised
from training.painter.sky import light_of

PAINTINGS, SKETCHES = 3, 2
GROUP = PAINTINGS + SKETCHES
SAYABLE = ("time", "season", "weather", "style")
# Styles whose look is not that of a sketch: a caption need not ask for them.
PAINTED = ("photo", "digital", "oil", "fantasy")
PHOTO_SHARE = 0.6


@dataclass(frozen=True)
class Twin:
    """One picture of a group. `kind`: "painting", "sketch" or "picture" (of no landscape). `captions` and, for each,
    which of `SAYABLE` it `says`; a sketch has none.
    """

    kind: str
    attributes: Attributes
    captions: tuple[str, ...] = ()
    says: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Plan:
    """The looks of a group: three to paint, two to sketch in the colours of."""

    composition: Composition
    painted: tuple[Attributes, ...]
    sketched: tuple[Attributes, ...]


def other(rng: np.random.Generator, options: tuple[str, ...], one: str) -> str:
    return str(rng.choice([option for option in options if option != one]))


def plan(rng: np.random.Generator) -> Plan:
    """A composition; the same at another hour or in another season; in another style; two sketches' colours."""
    first = choose(rng)
    composition = compose(rng, first)
    second = replace(first, time=other(rng, TIMES, first.time))
    if rng.random() < 0.5:
        second = replace(second, season=str(rng.choice(SEASONS)))
    if rng.random() < 0.3:
        second = replace(second, weather="cloudy" if first.weather == "clear" else "clear")
    if rng.random() < 0.4:
        second = replace(second, style=str(rng.choice(STYLES)))
    third = replace(first, style=other(rng, STYLES, first.style))
    if rng.random() < 0.4:
        third = replace(third, time=str(rng.choice(TIMES)), season=str(rng.choice(SEASONS)))
    if composition.subject == "snowman":
        second, third = replace(second, season="winter"), replace(third, season="winter")
    plain = replace(first, time="day", weather="clear")
    if composition.subject != "snowman":
        plain = replace(plain, season="summer")
    painted = (first, second, third)
    own = painted[rng.integers(3)]
    return Plan(composition, painted, (plain if rng.random() < 0.6 else own, own))


def paint_twin(rng: np.random.Generator, group: Plan, place: int, count: int) -> tuple[np.ndarray, Twin]:
    """Picture `place` of a group, (256, 256, 3) uint8, with `count` captions if it is a painting."""
    if place < PAINTINGS:
        painting = paint_composition(group.composition, group.painted[place], rng)
        words = captions_of(painting.attributes, rng, count)
        return painting.pixels, Twin(
            "painting", painting.attributes, words, tuple(said(text, painting.attributes) for text in words)
        )
    look = group.sketched[place - PAINTINGS]
    if rng.random() < 0.12:
        pixels = posterised(paint_composition(group.composition, look, rng).pixels, rng)
    else:
        pixels, _ = draw(group.composition, look, rng)
    return pixels, Twin("sketch", look)


def original(rng: np.random.Generator, photos: list[np.ndarray]) -> np.ndarray:
    """A photograph's crop or a generic picture, (256, 256, 3) uint8."""
    from training.photos import random_view

    if photos and rng.random() < PHOTO_SHARE:
        return random_view(rng, photos[rng.integers(len(photos))], 256)
    return paint_generic(rng)


def picture_twin(
    rng: np.random.Generator, picture: np.ndarray, looks: tuple[str, ...], place: int, count: int
) -> tuple[np.ndarray, Twin]:
    """`place` 0 is the picture itself, 1 and 2 are its stylised selves in `looks`, 3 and 4 tracings."""
    style = looks[place - 1] if 0 < place < PAINTINGS else "photo"
    attributes = Attributes("", "", "", "", style)
    if place >= PAINTINGS:
        return posterised(picture, rng), Twin("sketch", attributes)
    pixels = picture if place == 0 else stylised(rng, picture, style)
    words = tuple(captions.describe_style(style, rng) for _ in range(count))
    return pixels, Twin("picture", attributes, words, (("style",),) * count)


def stylised(rng: np.random.Generator, picture: np.ndarray, style: str) -> np.ndarray:
    """A picture rendered in one of the painter's styles, (256, 256, 3) uint8."""
    light = light_of(rng, "day", "clear", enchanted=False)
    canvas = Canvas(rng=rng, look=rng, light=light, horizon=128.0, pixels=picture.astype(np.float32) / 255)
    return styles.finish(canvas, style)


def sayable(one: Attributes) -> set[str]:
    """What a caption of this picture may name."""
    names = {"style"}
    if one.terrain:
        names.add("weather")
        if one.shows_time or one.time == "night":
            names.add("time")
        if one.shows_season and one.style != "pencil":
            names.add("season")
    return names


def said(caption: str, one: Attributes) -> tuple[str, ...]:
    """Which of `SAYABLE` the caption names."""
    words = caption.lower()
    phrases = captions.words_for(one) | {
        "style": captions.STYLE_BEFORE[one.style]
        + captions.STYLE_AFTER[one.style]
        + captions.STYLE_LANDSCAPE[one.style]
    }
    return tuple(name for name in SAYABLE if any(phrase in words for phrase in phrases.get(name, ())))


def captions_of(one: Attributes, rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Captions, half of which name everything that can be named (the weather only if it is not clear)."""
    full = sayable(one) - ({"weather"} if one.weather == "clear" else set())
    free = [captions.describe(one, rng) for _ in range(count // 2)]
    complete: list[str] = []
    tries = (captions.describe(one, rng) for _ in range(300))
    while len(complete) < count - len(free):
        text = next(tries, None)
        if text is None:  # never seen to happen; the longest says the most
            text = max(free + complete, key=len)
            complete += [text] * (count - len(free) - len(complete))
        elif full <= set(said(text, one)):
            complete.append(text)
    return tuple(free + complete)


def needed(given: Twin, wanted: Twin) -> set[str]:
    """What a caption must name where two twins differ, so that words, and not chance, change a picture."""
    names = {
        name
        for name in ("time", "season", "weather")
        if getattr(given.attributes, name) != getattr(wanted.attributes, name)
    }
    style = wanted.attributes.style
    if given.kind == "sketch":
        names |= {"style"} if style not in PAINTED or wanted.kind == "picture" else set()
    elif given.attributes.style != style:
        names.add("style")
    return names & sayable(wanted.attributes)
