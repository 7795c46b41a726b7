"""The recipe inside the PNG."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from backend.job import Job
from tests.fakes import report
from ui.recipe import CHUNK, parameters_text, save_png


def recipe(**more: object) -> dict[str, object]:
    job = Job(Image.new("RGB", (64, 64)), "a lake, “quiet”", seed=7, **more)  # type: ignore[arg-type]
    return job.resolved().recipe()


def test_the_parameters_text_is_the_one_others_read() -> None:
    text = parameters_text(recipe(negative_prompt="people"))
    assert text.splitlines()[:2] == ["a lake, “quiet”", "Negative prompt: people"]
    assert "Steps: 20, Sampler: default, CFG scale: 4.0, Seed: 7, Size: 256x256" in text
    assert "Denoising strength: 0.65" in text


def test_a_picture_says_how_it_was_made_and_where_it_really_ran(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(path, Image.new("RGB", (8, 8)), recipe(), [report("encode", asked="auto")])
    with Image.open(path) as image:
        assert image.text["parameters"] == parameters_text(recipe())  # type: ignore[attr-defined]
        story = json.loads(image.text[CHUNK])  # type: ignore[attr-defined]
    assert story["recipe"] == recipe()
    assert (story["stages"][0]["mode"], story["stages"][0]["requested_mode"]) == ("whole", "auto")
