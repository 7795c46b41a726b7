"""Adding an endpoint of one's own on the page, on the real built-in model, and where its token can be seen after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.endpoint import Served, Service, build_app
from backend.models import BUILTIN
from backend.settings import Settings
from backend.studio import Studio
from backend.vae.whole import Whole
from tests.browser.doing import open_tab, paint, saved, upload
from tests.browser.launching import WatchedPages, page_of
from tests.fakes import FakeStudio
from tests.serving import serve
from tests.waiting import wait_until

TOKEN = "a-token-nobody-may-see"


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """An endpoint with the built-in VAE, behind a token."""
    studio = Studio(Settings(device="cpu", model="builtin"))
    served = Served("builtin", BUILTIN.latents, lambda: Whole(studio.loader.vae(BUILTIN), BUILTIN.latents))
    with serve(build_app(Service([served], token=TOKEN))) as url:
        yield url


def fill_in(page: Any, address: str, token: str = "", name: str = "") -> None:
    open_tab(page, "Endpoints")
    for field, text in (("#lr-address", address), ("#lr-token", token), ("#lr-own-name", name)):
        page.locator(f"{field} input, {field} textarea").first.fill(text)
    page.locator("#lr-test").click()


def test_add_it_paint_with_it_and_forget_it(watched: WatchedPages, url: str, guarded: str) -> None:
    page = watched.open(url)
    replies: list[bytes] = []

    def note(response: Any) -> None:
        if "text/event-stream" not in response.headers.get("content-type", ""):
            replies.append(response.body() if response.status == 200 else b"")

    page.on("response", note)
    fill_in(page, guarded, "wrong")
    assert page.locator("#lr-token input").get_attribute("type") == "password"
    page.locator("#lr-verdict").get_by_text("wants a token").wait_for()
    fill_in(page, guarded, TOKEN, "The big one")
    verdict = page.locator("#lr-verdict")
    verdict.get_by_text("“The big one” is added").wait_for()
    assert verdict.locator(".lr-light[data-state=up]").count() == 1
    assert "million pixels" in verdict.inner_text() and "Built-in" in verdict.inner_text()
    page.wait_for_function("document.querySelector('#lr-token input').value === ''")

    open_tab(page, "Paint")
    page.locator("#lr-mode").get_by_text("Yours, The big one").click()
    page.locator("#lr-remote .lr-light[data-state=up]").wait_for()
    upload(page)
    paint(page)
    host = guarded.removeprefix("http://")
    assert host in page.locator("#lr-numbers table").inner_text()
    assert "lossless" in page.locator("#lr-numbers table").inner_text()
    page.locator("#lr-advanced button").first.click()
    page.locator("#lr-make-link").click()
    page.wait_for_function(
        "document.querySelector('#lr-link textarea, #lr-link input')?.value.startsWith('http')"
    )
    link = page.locator("#lr-link textarea, #lr-link input").first.input_value()
    assert "mode=remote" in link and "own" not in link
    with Image.open(saved(page, "#lr-save-picture")) as image:
        written = json.dumps(image.text)  # type: ignore[attr-defined]
    seen = page.content() + json.dumps(page.evaluate("[{...localStorage}, {...sessionStorage}]"))
    for text in (link, written, seen, *(body.decode("latin-1") for body in replies)):
        assert TOKEN not in text
    assert TOKEN not in json.dumps(page.request.get(f"{url}config").json())

    open_tab(page, "Encode & Decode")
    assert page.locator("#lr-vae-where").get_by_text("Yours, The big one").count() == 1
    open_tab(page, "Endpoints")
    page.locator("#lr-own-forget").click()
    page.locator("#lr-own-list table").wait_for(state="detached")
    open_tab(page, "Paint")
    page.locator("#lr-mode").get_by_text("Yours, The big one").wait_for(state="detached")
    assert page.locator("#lr-mode input[value=auto]").is_checked()


def test_it_belongs_to_one_open_page_and_goes_with_it(
    watched: WatchedPages, guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ui import page as ui_page
    from ui.user_endpoints import UserEndpoints

    kept = UserEndpoints()
    monkeypatch.setattr(ui_page, "UserEndpoints", lambda: kept)
    with page_of(FakeStudio(), tmp_path) as url:
        page, other = watched.open(url), watched.open(url)
        fill_in(page, f"{guarded}/vae/builtin/decode", TOKEN)
        page.locator("#lr-verdict").get_by_text("is added").wait_for()
        assert len(kept._pages) == 1
        open_tab(other, "Paint")
        assert other.locator("#lr-mode").get_by_text("Yours,").count() == 0
        page.context.close()
        watched.contexts.remove(page.context)
        wait_until(lambda: not kept._pages)
        watched.close()


def test_a_public_page_takes_none(watched: WatchedPages, tmp_path: Path) -> None:
    studio = FakeStudio()
    studio.settings = Settings(model="builtin", on_space=True)
    with page_of(studio, tmp_path) as url:
        page = watched.open(url)
        open_tab(page, "Endpoints")
        page.get_by_text("This page calls only the addresses its owner configured.").wait_for()
        assert page.locator("#lr-address").count() == 0
        watched.close()


def test_the_light_tells_before_anything_is_painted(watched: WatchedPages, quick: str) -> None:
    page = watched.open(quick)
    assert page.locator("#lr-remote").inner_text() == ""
    page.locator("#lr-mode input[value=remote]").check()
    page.locator("#lr-remote .lr-light[data-state=up]").wait_for()
    assert "is ready" in page.locator("#lr-remote").inner_text()
    page.locator("#lr-mode input[value=whole]").check()
    page.locator("#lr-remote .lr-light").wait_for(state="detached")


def test_the_apps_own_endpoint_is_listed_from_the_first_view_on(watched: WatchedPages, url: str) -> None:
    page = watched.open(url, locale="de-DE")
    open_tab(page, "Endpunkte")
    first = page.locator("#lr-lights tbody tr").first.inner_text()
    assert f"{url}vae/builtin/encode" in first and "noch nicht gefragt" in first
    page.locator("#lr-check").click()
    page.locator("#lr-lights .lr-light[data-state=up]").first.wait_for()
    assert "antwortet" in page.locator("#lr-lights tbody tr").first.inner_text()
