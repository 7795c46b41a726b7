"""Paints the example that the page opens with, with the shipped weights: `python -m ui.assets.paint`.

The picture holds its recipe and what each stage cost on the processor that painted it, by that processor's name.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from PIL import Image

from backend import images
from backend.device.measure import processor_name
from backend.events import Result
from backend.job import Job
from backend.message import literal
from backend.settings import Settings
from backend.studio import Studio
from ui.first_sight import PAINTING, SKETCH
from ui.looks import example_of
from ui.recipe import save_png
from ui.theme import ASSETS

SEED = 18
SIDE = 256


def job(seed: int = SEED) -> Job:
    """What the example button and the big button would do, with a seed that was chosen."""
    with Image.open(ASSETS / f"{SKETCH}.png") as sketch:
        picture = images.resize(images.to_rgb(sketch), SIDE, SIDE)
    return Job(picture, example_of("builtin", SKETCH).prompt, model="builtin", seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Paint the example that the page opens with.")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    studio = Studio(Settings(device="cpu", model="builtin"))
    for _ in range(2):  # the first loads the weights
        *_, result = studio.img2img(job(options.seed))
    assert isinstance(result, Result)
    where = literal(processor_name() or "CPU")
    reports = [replace(report, where=where) for report in result.reports]
    save_png(ASSETS / f"{PAINTING}.png", result.image, result.recipe, reports)


if __name__ == "__main__":
    main()
