"""Settings that come from elsewhere (a link, a picture, the history, another model) fill the form in with values that
it offers: the choices of a mode and of a scheduler follow the model that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.errors import BadSettingError
from backend.models import BUILTIN, MODELS
from tests.fakes import FakeStudio
from tests.following import follow_page
from ui import img2img
from ui.form import Values
from ui.img2img import Img2ImgTab
from ui.runs import Runs
from ui.tab import PageContext
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints

EXAMPLE = str(ASSETS / "mountains.png")
VISITOR: Any = SimpleNamespace(headers={}, session_hash="page")


class Page:
    """The main tab of a page that opens with `model`."""

    def __init__(self, model: str, folder: Path) -> None:
        self.studio, self.runs = FakeStudio(model=model), Runs(folder)
        context = PageContext(self.studio, self.runs, UserEndpoints())  # type: ignore[arg-type]
        with gr.Blocks() as self.blocks:
            self.tab: Img2ImgTab = img2img.build(context)
            self.tab.wire()

    def event(self, name: str, *arguments: Any) -> dict[Any, Any]:
        """What the handler of that name changes."""
        handler = next(fn.fn for fn in self.blocks.fns.values() if getattr(fn.fn, "__name__", "") == name)
        return handler(*arguments)  # type: ignore[no-any-return]

    def values(self, **changed: Any) -> dict[Any, Any]:
        """The form as it opens, with these values changed, by widget."""
        form = self.tab.form
        return {w: w.value for w in form.settings()} | {getattr(form, k): v for k, v in changed.items()}


def choice(change: Mapping[str, Any]) -> tuple[list[str], str]:
    """(values offered, value chosen) of an update; the latter must be among the former, or Gradio refuses it."""
    offered = [value for _, value in change["choices"]]
    assert change["value"] in offered
    return offered, change["value"]


def test_a_link_brings_the_modes_of_its_model(tmp_path: Path) -> None:
    page = Page("builtin", tmp_path)
    form = page.tab.form
    changes = page.tab.from_link({"model": "sd-v1", "mode": "tiny", "decode_mode": "tiny"}, VISITOR)
    assert changes[form.model] == "sd-v1"
    for widget in (form.mode, form.decode_mode):
        assert choice(changes[widget])[1] == "tiny"
    assert choice(changes[form.encode_mode])[1] == "same"
    assert choice(changes[form.scheduler])[0] == list(MODELS["sd-v1"].schedulers)
    assert changes[form.steps] == MODELS["sd-v1"].num_inference_steps, "the model's own, as none are named"


def test_a_mode_that_the_model_does_not_have_becomes_automatic(tmp_path: Path) -> None:
    page = Page("builtin", tmp_path)
    changes = page.tab.from_link({"mode": "tiny", "encode_mode": "tiny"}, VISITOR)
    assert choice(changes[page.tab.form.mode])[1] == "auto"
    assert choice(changes[page.tab.form.encode_mode])[1] == "same"


def test_a_link_without_settings_changes_nothing(tmp_path: Path) -> None:
    page = Page("sd-v1", tmp_path)
    assert page.tab.from_link({}, VISITOR) == {}
    assert page.tab.from_link({"__theme": "dark", "model": "dall-e"}, VISITOR) == {}


def test_an_earlier_run_brings_the_schedulers_of_its_model(tmp_path: Path) -> None:
    page = Page("sd-v1-lcm", tmp_path)
    assert MODELS["sd-v1-lcm"].schedulers == ("default",)
    list(follow_page(page.studio, page.runs, Values(EXAMPLE, "x", scheduler="Euler a"))[0])
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    data = page.values() | {page.tab.result.ids: [folder.name]}
    changes = page.event("recall", data, SimpleNamespace(index=0), VISITOR)
    form = page.tab.form
    assert changes[form.model] == "builtin" and changes[form.prompt] == "x"
    assert choice(changes[form.scheduler])[1] == "Euler a"
    assert page.tab.helpers.model_note in changes


def test_a_picture_of_automatic1111_keeps_the_scheduler_of_a_model_with_only_one(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a barn\nSteps: 25, Sampler: Euler a, CFG scale: 30, Seed: 4")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    page = Page("sd-v1-lcm", tmp_path / "runs")
    form = page.tab.form
    changes = page.event("restore", str(tmp_path / "a.png"), "sd-v1-lcm", VISITOR)
    assert choice(changes[form.scheduler]) == (["default"], "default")
    assert changes[form.steps] == 25 and changes[form.guidance] == 20, "where the slider ends"
    assert form.model not in changes and form.mode not in changes
    changes = page.event("restore", str(tmp_path / "a.png"), "sd-v1", VISITOR)
    assert choice(changes[form.scheduler])[1] == "Euler a"


@pytest.mark.parametrize("opens_with", ["builtin", "sd-v1"])
def test_a_link_always_names_its_model(tmp_path: Path, opens_with: str) -> None:
    page = Page(opens_with, tmp_path)
    (link,) = page.event("query", page.values(model="builtin")).values()
    assert "model=builtin" in link["value"]


def test_another_model_brings_its_defaults_and_keeps_the_mode_it_has(tmp_path: Path) -> None:
    page = Page("builtin", tmp_path)
    form, spec = page.tab.form, MODELS["sd-v1-lcm"]
    changes = page.event("take_defaults", spec.name, "builtin", "tiled", VISITOR)
    assert "tiled" in dict(changes[form.mode]["choices"]).values()
    assert "value" not in changes[form.mode], "what is chosen while this is on its way stays chosen"
    assert choice(changes[form.scheduler])[1] == "default"
    assert (changes[form.steps], changes[form.guidance]) == (spec.num_inference_steps, spec.guidance_scale)
    assert form.model not in changes and form.prompt not in changes


def test_another_model_without_the_chosen_mode_brings_its_first(tmp_path: Path) -> None:
    page = Page("builtin", tmp_path)
    changes = page.event("take_defaults", "sd-v1", "builtin", "a mode that it does not have", VISITOR)
    assert choice(changes[page.tab.form.mode])[1] == "auto"


def test_leaving_the_list_of_models_without_a_choice_changes_nothing(tmp_path: Path) -> None:
    """Gradio tells of an input then, and the defaults took the visitor's strength, steps and mode away."""
    page = Page("builtin", tmp_path)
    form = page.tab.form
    changes = page.event("take_defaults", "sd-v1", "builtin", "tiled", VISITOR)
    assert changes[page.tab.helpers.filled_for] == "sd-v1"
    changes = page.event("take_defaults", "sd-v1", "sd-v1", "tiled", VISITOR)
    assert changes == {form.model: gr.skip()}


@pytest.mark.parametrize("fit", ["x", "", None])
def test_a_way_to_fit_that_nobody_knows_is_named(fit: Any) -> None:
    with pytest.raises(BadSettingError, match="by crop, fit, stretch, not by"):
        Values(str(ASSETS / "sea.png"), fit=fit).picture(BUILTIN)
