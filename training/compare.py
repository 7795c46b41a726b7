"""Two models side by side, to be looked at: `python -m training.compare BEFORE AFTER --out FOLDER`.

Sheets of sketches, photographs and words. Each picture to start from has two rows, the first model above the second,
at three strengths, under words that agree with its colours and words that do not. The crude sketches of `sketches.py`
come first, then held-out compositions drawn by the many hands of training.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from backend.models import BUILTIN
from training.painter.scenes import choose, compose
from training.painter.sketched import draw
from training.photos import test_photos
from training.progress import Progress
from training.report import TEXT_PROMPTS, Painter, contact_sheet
from training.sketches import DRAWN, sketch

SEED = 78
STRENGTHS = (0.5, 0.6, 0.7)
DRAWN_WORDS = {
    "peaks": (
        "an oil painting of mountains with a river in summer",
        "a fantasy landscape of mountains at sunset",
    ),
    "boat": (
        "an oil painting of the sea with a boat at sunset",
        "digital art of the sea with a boat at night",
    ),
    "castle": ("a fantasy painting of a castle in summer", "an oil painting of a castle on a hill in winter"),
    "night": (
        "digital art of mountains and a lake at night",
        "a photo of mountains and a lake on a sunny day",
    ),
    "house": ("an oil painting of a house with trees in summer", "a photo of a house with trees in winter"),
    "dunes": (
        "a photo of a desert with a pyramid at sunset",
        "digital art of a desert with a pyramid at night",
    ),
}
# Terrain, the thing, and the words that agree with a summer's (or winter's) day and that do not.
BY_HAND = (
    ("hills", "snowman", "winter", ("a photo of a snowman in winter", "a snowman at sunset, oil painting")),
    (
        "hills",
        "windmill",
        "summer",
        ("an oil painting of a windmill in summer", "a windmill at night, digital art"),
    ),
    (
        "sea",
        "island",
        "summer",
        ("a photo of an island with a palm", "a fantasy painting of an island at sunset"),
    ),
    ("hills", "car", "summer", ("a car on the road, digital art", "a photo of a car in winter")),
    (
        "mountains",
        "balloon",
        "summer",
        ("a hot air balloon, oil painting", "a hot air balloon at sunset, fantasy art"),
    ),
    ("hills", "person", "summer", ("a person in a meadow, oil painting", "a person at night, digital art")),
)
PHOTO_WORDS = ("an oil painting", "a photo at sunset")

Start = tuple[Image.Image, tuple[str, str]]


def sketches() -> list[Start]:
    """Twelve: six crude ones and six by hand."""
    starts: list[Start] = [(sketch(name), DRAWN_WORDS[name]) for name in DRAWN]
    for number, (terrain, thing, season, words) in enumerate(BY_HAND):
        rng = np.random.default_rng([SEED, number])
        look = choose(rng, terrain=terrain, season=season, time="day", weather="clear")
        pixels, _ = draw(compose(rng, look, thing), look, rng)
        starts.append((Image.fromarray(pixels), words))
    return starts


def photographs() -> list[Start]:
    return [(Image.fromarray(photo), PHOTO_WORDS) for photo in test_photos().values()]


def guided_rows(models: list[Painter], starts: list[Start], progress: Progress) -> list[list[Image.Image]]:
    """For each start a row of each model: the start, then each of its words at each strength."""
    rows = []
    for number, (image, words) in enumerate(starts):
        for painter in models:
            made = [
                painter.from_image(image, [prompt], [7 + place], strength)[0]
                for place, prompt in enumerate(words)
                for strength in STRENGTHS
            ]
            rows.append([image, *made])
        progress.show((number + 1) / len(starts))
    return rows


def text_rows(models: list[Painter]) -> list[list[Image.Image]]:
    """Half of the prompts in the first two rows, one of each model, the others below."""
    seeds = range(1, len(TEXT_PROMPTS) + 1)
    made = [painter.from_text(TEXT_PROMPTS, seeds) for painter in models]
    half = len(TEXT_PROMPTS) // 2
    return [pictures[start : start + half] for start in (0, half) for pictures in made]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.compare", description=__doc__)
    parser.add_argument("models", type=Path, nargs=2, metavar="MODEL", help="two exported models")
    parser.add_argument("--out", type=Path, required=True, help="where the sheets go")
    parser.add_argument(
        "--guidance", type=float, nargs=2, default=[BUILTIN.guidance_scale] * 2, help="one for each model"
    )
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    models = [
        Painter(folder, guidance=value) for folder, value in zip(flags.models, flags.guidance, strict=True)
    ]
    for name, starts in (("sketches", sketches()), ("photographs", photographs())):
        contact_sheet(guided_rows(models, starts, Progress(name)), flags.out / f"{name}.png", 128)
    contact_sheet(text_rows(models), flags.out / "words.png", 192)


if __name__ == "__main__":
    main()
