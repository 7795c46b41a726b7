"""The finished example that the page opens with."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from backend import quality
from backend.events import Result
from backend.models import MODELS
from backend.studio import Studio
from tests.fakes import FakeStudio
from ui import first_sight, img2img
from ui.assets import paint
from ui.looks import example_of
from ui.recipe import settings_of
from ui.runs import Runs
from ui.tab import PageContext
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints


def test_it_is_what_the_shipped_weights_make_of_its_recipe(studio: Studio) -> None:
    """Another processor rounds otherwise, so not to the bit. If this fails: `python -m ui.assets.paint`."""
    job, metadata = paint.job(), first_sight.metadata()
    assert metadata.recipe == studio.resolve(job).recipe()
    *_, result = studio.img2img(job)
    assert isinstance(result, Result)
    with Image.open(ASSETS / f"{first_sight.PAINTING}.png") as shown:
        near = quality.psnr(shown.convert("RGB"), result.image)
    assert near > 30 > quality.psnr(job.image, result.image), "the painting, and not the sketch"
    assert [report.stage for report in metadata.reports] == ["encode", "denoise", "decode"]
    assert all(report.cost.seconds > 0 for report in metadata.reports)


def test_its_settings_are_those_of_the_example_button() -> None:
    settings = settings_of(first_sight.metadata().recipe, MODELS)
    spec = MODELS["builtin"]
    assert settings["prompt"] == example_of("builtin", first_sight.SKETCH).prompt
    assert (settings["strength"], settings["steps"]) == (spec.strength, spec.num_inference_steps)


@pytest.mark.parametrize(("locale", "word"), [("en", "drag the handle"), ("de", "Griff"), ("fr", "poignée")])
def test_it_speaks_the_visitors_language(locale: str, word: str) -> None:
    assert word in first_sight.panel_html(locale)
    shown = first_sight.viewer_value(locale)
    assert shown["before"] == f"pictures/{first_sight.SKETCH}.png"
    assert shown["after"] == f"pictures/{first_sight.PAINTING}.png"


def test_nothing_is_computed_for_it(tmp_path: Path) -> None:
    studio = FakeStudio(pause=60)
    context = PageContext(studio, Runs(tmp_path), UserEndpoints())  # type: ignore[arg-type]
    with gr.Blocks():
        tab = img2img.build(context)
    assert tab.result.viewer.value["after"]
    assert studio.jobs == [] and list(tmp_path.iterdir()) == []
