"""Markup and script in every field, file, link and error: the page shows text, and runs nothing of it."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.endpoint import Served, Service, build_app
from backend.errors import RemoteRefusedError
from backend.models import BUILTIN
from backend.settings import Settings
from backend.studio import Studio
from backend.vae.whole import Whole
from tests.browser.doing import open_tab, paint, upload, wait_for_picture
from tests.browser.launching import WatchedPages, page_of
from tests.fakes import FakeStudio, report
from tests.serving import serve
from ui.recipe import CHUNK

EVIL = (
    '"\'><img class=evil src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
    "<b class=evil>b</b><a class=evil href='javascript:window.pwned=1'>a</a>{{7*7}}${7*7} [l](javascript:pwned)"
)


def unharmed(page: Any) -> None:
    """Nothing of EVIL became part of the page or ran."""
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert page.locator(".evil, a[href^='javascript']").count() == 0


def test_markup_in_a_prompt_is_text_wherever_it_shows(watched: WatchedPages, quick: str) -> None:
    page = watched.open(quick)
    upload(page)
    page.locator("#lr-prompt textarea").fill(EVIL)
    page.locator("#lr-advanced button").first.click()
    page.locator("#lr-negative textarea").fill(EVIL)
    page.locator("#lr-make-link").click()
    paint(page)
    unharmed(page)
    assert EVIL in (page.locator("#lr-viewer img.lr-after").get_attribute("alt") or "")
    watched.reload(page)
    page.locator("#lr-history button img").first.wait_for()
    page.locator("#lr-history button:has(img)").first.click()
    page.wait_for_function("evil => document.querySelector('#lr-prompt textarea').value === evil", arg=EVIL)
    assert EVIL in (page.locator("#lr-viewer img.lr-after").get_attribute("alt") or ""), (
        "of an earlier run, too"
    )
    unharmed(page)


@pytest.mark.parametrize("tell", [EVIL, "&lt;b class=evil&gt;"], ids=["markup", "escaped already"])
def test_an_endpoints_answer_is_text_in_the_error(watched: WatchedPages, tmp_path: Path, tell: str) -> None:
    error = RemoteRefusedError(f"The endpoint said: {tell}", EVIL)
    with page_of(FakeStudio(fail={"decode": error}), tmp_path) as url, contextlib.closing(watched):
        page = watched.open(url)
        upload(page)
        page.locator("#lr-paint").click()
        toast = page.locator("[data-testid=toast-text]")
        toast.wait_for()
        assert toast.inner_text() == f"The endpoint said: {tell} {EVIL}"
        assert tell in page.locator("#lr-panel .lr-status").inner_text()
        unharmed(page)


def test_a_hostile_link_only_fills_fields_in(watched: WatchedPages, quick: str) -> None:
    names = ("prompt", "model", "mode", "scheduler", "seed", "width", "fit", "decode_mode", "__theme", "view")
    page = watched.open(quick + "?" + urlencode(dict.fromkeys(names, EVIL)))
    page.wait_for_function("evil => document.querySelector('#lr-prompt textarea').value === evil", arg=EVIL)
    unharmed(page)
    assert page.locator("#lr-model input").input_value() != EVIL
    upload(page)
    paint(page)  # what makes no sense was left out, so the form still works


def test_a_hostile_recipe_in_a_picture(watched: WatchedPages, quick: str, tmp_path: Path) -> None:
    info = PngInfo()
    stage = report("decode").as_dict() | {"where": EVIL, "reason": EVIL, "mode": EVIL}
    recipe = {
        "prompt": EVIL,
        "negative_prompt": EVIL,
        "model": "../../etc/passwd",
        "seed": EVIL,
        "width": 1e308,
    }
    info.add_itxt(
        CHUNK, json.dumps({"recipe": recipe | {"strength": [], "scheduler": {}}, "stages": [stage]})
    )
    info.add_itxt("parameters", EVIL * 1000)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "evil.png", pnginfo=info)
    page = watched.open(quick)
    upload(page, tmp_path / "evil.png")
    page.wait_for_function("evil => document.querySelector('#lr-prompt textarea').value === evil", arg=EVIL)
    unharmed(page)
    page.locator("#lr-paint").click()
    wait_for_picture(page)
    unharmed(page)


def test_markup_in_a_file_name_and_in_an_address(watched: WatchedPages, quick: str, tmp_path: Path) -> None:
    page = watched.open(quick)
    evil = tmp_path / "<img class=evil src=x onerror=window.pwned=1>.safetensors"
    evil.write_bytes(b"no latents")
    open_tab(page, "Encode & Decode")
    page.locator("#lr-latents-file input[type=file]").set_input_files(evil)
    page.wait_for_timeout(500)
    page.locator("#lr-decode").click()
    page.locator("[data-testid=toast-text]").first.wait_for()
    unharmed(page)
    open_tab(page, "Endpoints")
    page.locator("#lr-address textarea, #lr-address input").first.fill(f"http://{EVIL}/")
    page.locator("#lr-test").click()
    page.wait_for_timeout(500)
    unharmed(page)


def test_markup_in_the_name_of_an_endpoint(watched: WatchedPages, quick: str) -> None:
    """Shown in its table, the list to remove it from, each tab's list of places, and the sentence that it was added."""
    vae = Studio(Settings(device="cpu")).loader.vae(BUILTIN)
    service = Service([Served("builtin", BUILTIN.latents, lambda: Whole(vae, BUILTIN.latents))])
    page = watched.open(quick)
    with serve(build_app(service)) as address:
        open_tab(page, "Endpoints")
        page.locator("#lr-address textarea, #lr-address input").first.fill(address)
        page.locator("#lr-own-name textarea, #lr-own-name input").first.fill(
            "<img class=evil src=x onerror=pwned=1>"
        )
        page.locator("#lr-test").click()
        page.locator("#lr-own-list table").wait_for()
        assert "<img class=evil" in page.locator("#lr-own-list").inner_text()
        assert "<img class=evil" in page.locator("#lr-verdict").inner_text()
        unharmed(page)
        page.locator("#lr-own-which input").click()
        unharmed(page)
        page.keyboard.press("Escape")
        for tab, mode in (("Encode & Decode", "#lr-vae-where"), ("Paint", "#lr-mode")):
            open_tab(page, tab)
            page.locator(mode).get_by_text("<img class=evil").first.wait_for()
            unharmed(page)
        page.locator("#lr-mode").get_by_text("<img class=evil").first.click()
        upload(page)
        paint(page)
        unharmed(page)


def test_markup_in_the_names_of_uploads(watched: WatchedPages, quick: str, tmp_path: Path) -> None:
    """One that cannot be read is named in a sentence; Gradio's list names them all."""
    page = watched.open(quick)
    evil = [tmp_path / f"<img class=evil src=x onerror=window.pwned={n}>.png" for n in range(2)]
    evil[0].write_bytes(b"no picture")
    Image.new("RGB", (64, 64), "teal").save(evil[1])
    open_tab(page, "Encode & Decode")
    page.locator("#lr-bulk > button, #lr-bulk button").first.click()
    page.locator("#lr-bulk-pictures input[type=file]").set_input_files(evil[0])
    page.locator("#lr-bulk-pictures").get_by_text("class=evil").first.wait_for()
    unharmed(page)
    page.locator("#lr-bulk-encode").click()
    page.get_by_text("could not be read").first.wait_for()
    unharmed(page)
    page.locator("#lr-encode-picture input[type=file]").set_input_files(evil[1])
    page.locator("#lr-encode-picture img").first.wait_for()
    unharmed(page)
    open_tab(page, "Paint")
    upload(page, evil[1])
    unharmed(page)


def test_a_prompt_of_100_kb_gets_a_sentence(watched: WatchedPages, quick: str) -> None:
    page = watched.open(quick)
    upload(page)
    page.locator("#lr-prompt textarea").fill("long " * 20_000)
    page.locator("#lr-paint").click()
    page.get_by_text(re.compile(r"The prompt is longer than \d+ letters")).first.wait_for()
    page.locator("#lr-prompt textarea").fill("shorter")
    paint(page)
