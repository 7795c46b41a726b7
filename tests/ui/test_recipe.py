"""The recipe inside the PNG."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.job import Job, VaeOptions
from backend.models import MODELS
from tests.fakes import report
from ui.form import clean
from ui.recipe import CHUNK, parameters_text, parse_parameters, read_metadata, save_png, settings_in


def recipe(**more: object) -> dict[str, object]:
    job = Job(Image.new("RGB", (64, 64)), "a lake, “quiet”", seed=7, **more)  # type: ignore[arg-type]
    return job.resolved().recipe()


def test_the_parameters_text_is_the_one_others_read() -> None:
    text = parameters_text(recipe(negative_prompt="people"))
    assert text.splitlines()[:2] == ["a lake, “quiet”", "Negative prompt: people"]
    assert "Steps: 20, Sampler: default, CFG scale: 4.0, Seed: 7, Size: 256x256" in text
    assert "Denoising strength: 0.6" in text


def test_a_picture_says_how_it_was_made_and_where_it_really_ran(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(path, Image.new("RGB", (8, 8)), recipe(), [report("encode", requested="auto")])
    with Image.open(path) as image:
        assert image.text["parameters"] == parameters_text(recipe())  # type: ignore[attr-defined]
        metadata = json.loads(image.text[CHUNK])  # type: ignore[attr-defined]
    assert metadata["recipe"] == recipe()
    assert (metadata["stages"][0]["mode"], metadata["stages"][0]["requested_mode"]) == ("whole", "auto")


def test_our_own_picture_gives_its_settings_and_reports_back(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    made = recipe(negative_prompt="people", encode=VaeOptions("tiled"), decode=VaeOptions("remote"))
    reports = (report("encode", "tiled"), report("decode", "remote", requested="remote"))
    save_png(path, Image.new("RGB", (8, 8)), made, reports)
    metadata = read_metadata(path)
    assert metadata is not None and metadata.reports == reports and metadata.recipe == made
    settings = settings_in(path, MODELS)
    assert (settings["mode"], settings["encode_mode"], settings["decode_mode"]) == ("tiled", "same", "remote")
    assert (settings["prompt"], settings["negative_prompt"], settings["seed"]) == (
        "a lake, “quiet”",
        "people",
        7,
    )


def test_the_text_of_automatic1111_and_our_own_text_are_read() -> None:
    theirs = (
        "a barn,\nred\nNegative prompt: people, text\n"
        'Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 4242, Size: 512x384, Lora hashes: "a: b, c: d", '
        "Denoising strength: 0.4"
    )
    assert parse_parameters(theirs) == {
        "prompt": "a barn,\nred",
        "negative_prompt": "people, text",
        "steps": 25,
        "guidance": 6.5,
        "seed": 4242,
        "strength": 0.4,
        "width": 512,
        "height": 384,
        "scheduler": "DPM++ 2M",
    }
    ours = parse_parameters(parameters_text(recipe()))
    assert (ours["prompt"], ours["seed"], ours["scheduler"]) == ("a lake, “quiet”", 7, "default")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"recipe": 1, "stages": []}', '{"recipe": {}, "stages": [{}]}', "\0"]
)
def test_a_broken_metadata_is_no_metadata(tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_itxt(CHUNK, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") is None
    assert settings_in(tmp_path / "a.png", MODELS) == {}


def test_what_makes_no_sense_is_left_out() -> None:
    raw = {
        "steps": "1e999",
        "strength": "nan",
        "seed": "x",
        "width": -5,
        "guidance": "3",
        "model": "dall-e",
        "prompt": 7,
    }
    assert clean(raw, MODELS) == {"guidance": 3.0}
