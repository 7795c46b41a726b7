"""The offer of a better model: its download, Stop, and the switch to it, with a hub on this computer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.settings import Settings
from backend.studio import Studio
from tests.browser.doing import paint, upload
from tests.browser.launching import WatchedPages, page_of
from tests.hubbing import Hub, builtin_as, hub_here
from tests.waiting import wait_until

PAINTER, FILES = builtin_as("painter")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub({PAINTER.repository: dict(FILES)}, speed=1_500_000)
    with hub_here(hub, tmp_path / "hub"):
        yield hub


@pytest.fixture
def studio(hub: Hub) -> Studio:
    """As on a machine with a card, where the painter would run well but is not there yet."""
    studio = Studio(Settings(device="cpu", local_models=(PAINTER,)))
    studio.downloads.measure(PAINTER)
    studio.downloads.offered = PAINTER
    return studio


@pytest.fixture
def url(studio: Studio, tmp_path: Path, watched: WatchedPages) -> Iterator[str]:
    """The pages are closed before the server stops, because each follows the download to its end."""
    with page_of(studio, tmp_path / "runs") as url, contextlib.closing(watched):
        yield url


def text_of(page: Any) -> Any:
    return page.locator("#lr-offer-text")


def model_of(page: Any) -> str:
    return page.locator("#lr-model input").input_value()


def test_offer_progress_stop_and_on_to_the_end(watched: WatchedPages, url: str, hub: Hub) -> None:
    """Nothing is begun on the page, so it switches, and says so; the new model then paints."""
    page = watched.open(url)
    text_of(page).get_by_text("would run well on this computer").wait_for()
    assert "23 MB" in text_of(page).inner_text()
    page.locator("#lr-offer-start").click()
    text_of(page).get_by_text("a second").wait_for()
    page.locator("#lr-offer-stop").click()
    text_of(page).get_by_text("are here already").wait_for(timeout=2000)
    assert model_of(page) == "Built-in landscape painter"
    page.locator("#lr-offer-start").click()
    text_of(page).get_by_text("a second").wait_for()
    hub.speed = None
    text_of(page).get_by_text("this page uses it").wait_for()
    page.wait_for_function("document.querySelector('#lr-model input').value === 'Big painter'")
    page.locator("#lr-offer-close").click()
    page.locator("#lr-offer").wait_for(state="hidden")
    upload(page)
    paint(page)


def test_the_page_is_used_meanwhile_and_does_not_switch_then(
    watched: WatchedPages, url: str, hub: Hub
) -> None:
    page = watched.open(url)
    page.locator("#lr-offer-start").click()
    text_of(page).get_by_text("a second").wait_for()
    upload(page)
    paint(page)
    hub.speed = None
    text_of(page).get_by_text("Big painter is on this computer now.").wait_for()
    assert model_of(page) == "Built-in landscape painter"
    page.locator("#lr-offer-use").click()
    page.wait_for_function("document.querySelector('#lr-model input').value === 'Big painter'")
    page.locator("#lr-offer").wait_for(state="hidden")


def test_another_visitor_sees_it_and_stops_it_for_nobody_else(
    watched: WatchedPages, url: str, hub: Hub, studio: Studio
) -> None:
    ann, bob = watched.open(url), watched.open(url, locale="de-DE")
    ann.locator("#lr-offer-start").click()
    text_of(bob).get_by_text("Jemand anders hier hat es angefordert").wait_for()
    assert not bob.locator("#lr-offer-stop").is_visible(), "it is not his to stop"
    text_of(ann).get_by_text("a second").wait_for()  # else there is nothing yet that could be here already
    ann.locator("#lr-offer-stop").click()
    text_of(bob).get_by_text("sind schon hier").wait_for()
    bob.locator("#lr-offer-start").click()
    text_of(ann).get_by_text("Somebody else").wait_for()
    bob.context.close()
    wait_until(lambda: not studio.downloads.state(PAINTER).asked_by)
    ann.locator("#lr-offer-stop").click()
    text_of(ann).get_by_text("are here already").wait_for()


def test_a_refusal_is_said_and_can_be_tried_again(watched: WatchedPages, url: str, hub: Hub) -> None:
    hub.refuse_files = (403, {"x-error-code": "GatedRepo"})
    page = watched.open(url)
    page.locator("#lr-offer-start").click()
    text_of(page).get_by_text("accept its licence first").wait_for()
    hub.refuse_files, hub.speed = None, None
    page.locator("#lr-offer-start").click()
    text_of(page).get_by_text("this page uses it").wait_for()


def test_a_page_that_opens_later_opens_with_it(
    watched: WatchedPages, url: str, hub: Hub, studio: Studio
) -> None:
    hub.speed = None
    studio.downloads.start(PAINTER, "ann")
    wait_until(lambda: studio.downloads.state(PAINTER).status == "here")
    page = watched.open(url)
    page.wait_for_function("document.querySelector('#lr-model input').value === 'Big painter'")
    assert not page.locator("#lr-offer").is_visible(), "that is nothing new"
