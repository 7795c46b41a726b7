"""Every word in the visitor's language: each tab, fresh, after an example, a run, a failure and a restore."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.errors import OutOfMemoryError
from backend.message import mode_name
from tests.browser.doing import open_tab, paint, tab_names, upload
from tests.browser.launching import WatchedPages, page_of
from tests.browser.words import said_on, untranslated
from tests.fakes import FakeStudio
from ui.languages import LANGUAGES
from ui.looks import EXAMPLES, example_of
from ui.theme import ASSETS

LOCALES = {"en": "en-US", "de": "de-DE", "fr": "fr-FR"}
THEIRS = "a red barn"


def failing() -> FakeStudio:
    error = OutOfMemoryError(
        "There was not enough memory to decode this picture in the mode “{mode}”.",
        "Choose a smaller size, or a mode that needs less memory.",
        mode=mode_name("whole"),
    )
    return FakeStudio(fail={"decode": error})


def of_automatic1111(folder: Path) -> Path:
    info = PngInfo()
    info.add_text("parameters", f"{THEIRS}\nSteps: 25, Sampler: Euler a, Seed: 7, Model: theirs")
    Image.new("RGB", (64, 48), "red").save(folder / "theirs.png", pnginfo=info)
    return folder / "theirs.png"


@pytest.mark.parametrize("locale", LANGUAGES)
def test_every_visible_sentence_is_in_the_languages_table(
    watched: WatchedPages, tmp_path: Path, locale: str
) -> None:
    prompts = [example_of("builtin", name, locale).prompt for name in EXAMPLES]
    allowed = {*prompts, THEIRS, "theirs", "AUTOMATIC1111", "vae.example.org"}
    found: dict[str, list[str]] = {}

    def look(page: Any, when: str) -> None:
        strange = untranslated(said_on(page), locale, allowed)
        if strange:
            found[when] = strange

    with page_of(failing(), tmp_path / "runs") as url, contextlib.closing(watched):
        page = watched.open(url, locale=LOCALES[locale])
        look(page, "fresh")
        tabs = tab_names(page)
        page.locator("#lr-examples button").nth(1).click()
        page.locator("#lr-picture img").first.wait_for()
        page.wait_for_function(
            "p => document.querySelector('#lr-prompt textarea').value === p", arg=prompts[1]
        )
        page.locator("#lr-advanced button").first.click()
        for fold in page.locator("details").all():
            fold.evaluate("fold => fold.open = true")
        page.wait_for_timeout(500)  # the lines about the form come one after the other
        look(page, "after an example")
        page.locator("#lr-paint").click()
        page.locator("#lr-finish-button").wait_for()
        look(page, "after a failure")
        paint(page)
        look(page, "after a run")
        upload(page, of_automatic1111(tmp_path))
        page.wait_for_function(f"document.querySelector('#lr-prompt textarea').value === '{THEIRS}'")
        look(page, "after a restore")
        for name in tabs[1:]:
            open_tab(page, name)
            look(page, name)
            if page.locator("#lr-encode:visible").count():
                page.locator("#lr-encode-picture input[type=file]").set_input_files(ASSETS / "sea.png")
                page.locator("#lr-encode-picture img").first.wait_for()
                page.locator("#lr-encode").click()
                page.locator("#lr-latents-viewer .lr-frame[data-state=before]").wait_for()
                look(page, f"{name}, encoded")
            if page.locator("#lr-compare:visible").count():
                page.locator("#lr-compare-picture input[type=file]").set_input_files(ASSETS / "sea.png")
                page.locator("#lr-compare-picture img").first.wait_for()
                page.locator("#lr-compare").click()
                page.locator("#lr-compare-table table").wait_for()
                page.locator("#lr-compare:enabled").wait_for()
                look(page, f"{name}, compared")
    assert found == {}
