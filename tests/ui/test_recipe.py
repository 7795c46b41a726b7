"""The recipe inside the PNG."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.job import Job, VaeOptions
from backend.message import Message, join, literal
from backend.models import MODELS
from tests.fakes import report
from ui.form import clean
from ui.languages import MESSAGES
from ui.recipe import CHUNK, parameters_text, read_metadata, save_png, settings_in
from ui.text import say_message


def recipe(**more: object) -> dict[str, object]:
    job = Job(Image.new("RGB", (64, 64)), "a lake, “quiet”", seed=7, **more)  # type: ignore[arg-type]
    return job.resolve(MODELS["builtin"]).recipe()


def test_the_parameters_text_is_the_one_others_read() -> None:
    text = parameters_text(recipe(negative_prompt="people"))
    assert text.splitlines()[:2] == ["a lake, “quiet”", "Negative prompt: people"]
    assert "Steps: 20, Sampler: default, CFG scale: 2.0, Seed: 7, Size: 256x256" in text
    assert "Denoising strength: 0.6" in text


def test_a_picture_says_how_it_was_made_and_where_it_really_ran(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(path, Image.new("RGB", (8, 8)), recipe(), [report("encode", requested="auto")])
    with Image.open(path) as image:
        assert image.text["parameters"] == parameters_text(recipe())  # type: ignore[attr-defined]
        metadata = json.loads(image.text[CHUNK])  # type: ignore[attr-defined]
    assert metadata["recipe"] == recipe()
    assert (metadata["stages"][0]["mode"], metadata["stages"][0]["requested_mode"]) == ("whole", "auto")


@pytest.fixture
def translated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A language that has the sentences of `tests.fakes.report`."""
    for message in (report("encode").reason, report("encode").where):
        monkeypatch.setitem(MESSAGES["de"], message.key, f"Deutsch: {message.key}")


@pytest.mark.usefixtures("translated")
def test_our_own_picture_gives_its_settings_and_reports_back(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    made = recipe(negative_prompt="people", encode=VaeOptions("tiled"), decode=VaeOptions("remote"))
    reports = (report("encode", "tiled"), report("decode", "remote", requested="remote"))
    save_png(path, Image.new("RGB", (8, 8)), made, reports)
    metadata = read_metadata(path)
    assert metadata is not None and metadata.reports == reports and metadata.recipe == made
    restored = settings_in(path, MODELS)
    assert restored is not None and restored.program == "Latent Relay"
    settings = restored.settings
    assert (settings["mode"], settings["encode_mode"], settings["decode_mode"]) == ("tiled", "same", "remote")
    assert (settings["prompt"], settings["negative_prompt"], settings["seed"]) == (
        "a lake, “quiet”",
        "people",
        7,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"recipe": 1, "stages": []}',
        '{"recipe": {}, "stages": [{}]}',
        "\0",
        "[" * 60_000,
        '{"recipe": {"prompt": ' + "[" * 30_000 + "]" * 30_000 + '}, "stages": []}',
        '{"recipe": {"prompt": "x"}, "stages": []}' + " " * 70_000,
    ],
    ids=range(9),
)
def test_broken_metadata_is_no_metadata(tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_itxt(CHUNK, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") is None
    assert settings_in(tmp_path / "a.png", MODELS) is None


def with_messages(tmp_path: Path, messages: object, text: str) -> Message:
    """The reason that is read from a picture whose report has these messages beside this English text."""
    stage = report("encode").as_dict() | {"reason": text, "messages": messages}
    info = PngInfo()
    info.add_itxt(CHUNK, json.dumps({"recipe": {}, "stages": [stage]}))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    metadata = read_metadata(tmp_path / "a.png")
    assert metadata is not None
    return metadata.reports[0].reason


@pytest.mark.usefixtures("translated")
def test_a_sentence_is_read_back_in_any_language(tmp_path: Path) -> None:
    said = join(report("encode").reason, report("encode").where)
    data = {"reason": asdict(said)}
    found = with_messages(tmp_path, data, str(said))
    assert found == said and say_message(found, "de").startswith("Deutsch: ")


@pytest.mark.usefixtures("translated")
@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {"key": "{a.__class__}", "values": {"a": "x"}},
        {"key": "{a:>99999999}", "values": {"a": "x"}},
        {"key": "{part0.key} {part1}", "values": {"part0": "x", "part1": "y"}},
        {"key": report("encode").reason.key, "values": {}},
        {"key": report("encode").reason.key, "values": ["whole"]},
        {"key": report("encode").reason.key, "values": {"whole": [1], "free": "y"}},
        {"key": report("encode").reason.key, "values": {"whole": {"key": "{a.b}", "values": {}}, "free": 1}},
        {"key": report("encode").reason.key, "values": {"whole": "another text", "free": "4.0 GB"}},
        {"key": [1], "values": {}},
        {"key": "{text}", "values": {"text": "another text"}},
    ],
    ids=range(12),
)
def test_a_forged_sentence_is_its_english_text(tmp_path: Path, message: object) -> None:
    found = with_messages(tmp_path, {"reason": message}, "It fits, {a.__class__}.")
    assert (
        found == literal("It fits, {a.__class__}.") and say_message(found, "de") == "It fits, {a.__class__}."
    )


def test_a_picture_from_before_there_were_messages_shows_its_english_text(tmp_path: Path) -> None:
    assert say_message(with_messages(tmp_path, None, "It fitted."), "de") == "It fitted."


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
