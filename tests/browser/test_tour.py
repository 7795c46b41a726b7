"""What a presenter does: the tour, the story of a run, and the example that the page opens with."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser.doing import paint, saved, upload
from tests.browser.launching import WatchedPages, page_of
from tests.fakes import FakeStudio
from tests.waiting import wait_until
from ui import story
from ui.theme import ASSETS

EXAMPLE = "#lr-panel .lr-panel[data-state=example]"
ALL_DONE = "document.querySelectorAll('.lr-tour-ways li[data-done]').length === 4"


def start(page: Any) -> None:
    page.locator("#lr-tour-start").click()
    page.locator("#lr-tour.lr-open").wait_for()


def slide(page: Any) -> int:
    return int(page.locator(".lr-tour-count").inner_text().partition(" / ")[0])


# -- the example -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "sentence", "stage"),
    [
        ("en-US", "An example: drag the handle", "Paint"),
        ("de-DE", "Ein Beispiel: am Griff ziehen", "Malen"),
        ("fr-FR", "Un exemple : tirez la poignée", "Peindre"),
    ],
)
def test_the_page_opens_with_a_finished_example(
    watched: WatchedPages, quick: str, locale: str, sentence: str, stage: str
) -> None:
    page = watched.open(quick, locale=locale)
    page.locator(EXAMPLE).get_by_text(sentence).wait_for()
    assert page.locator(f"{EXAMPLE} .lr-stage").nth(1).inner_text().startswith(stage)
    assert page.locator(f"{EXAMPLE} .lr-bar i").count() == 3
    assert page.locator("#lr-numbers tbody tr").count() == 6
    frame = page.locator("#lr-viewer .lr-frame[data-state=done]")
    for name in ("before", "after"):
        picture = frame.locator(f"img.lr-{name}")
        page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
    page.locator("#lr-viewer input").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#lr-viewer input").input_value() == "51"


def test_a_picture_of_ones_own_replaces_the_example_and_a_finished_run_stays(
    watched: WatchedPages, quick: str
) -> None:
    page = watched.open(quick)
    page.locator(EXAMPLE).wait_for()
    page.get_by_role("button", name="Sea").click()
    page.locator("#lr-viewer .lr-frame[data-state=empty]").wait_for()
    assert page.locator("#lr-numbers tbody tr").count() == 0
    paint(page)
    shown = page.locator("#lr-viewer img.lr-after").get_attribute("src")
    upload(page, ASSETS / "castle.png")
    page.wait_for_timeout(300)
    assert page.locator("#lr-viewer img.lr-after").get_attribute("src") == shown


# -- the story -------------------------------------------------------------------------------------------------


def test_a_finished_run_is_saved_as_one_picture(watched: WatchedPages, quick: str) -> None:
    page = watched.open(quick)
    assert page.locator("#lr-save-story").is_disabled()
    upload(page)
    paint(page)
    page.locator("a#lr-save-story[download]").wait_for()  # else Gradio hangs up, as at any other link
    with Image.open(saved(page, "#lr-save-story")) as picture:
        assert picture.size == story.SIZE
    page.locator("#lr-viewer .lr-frame[data-state=done]").wait_for()  # the page is still there


# -- the tour --------------------------------------------------------------------------------------------------


def test_arrow_keys_and_a_clicker_turn_the_slides_and_the_last_is_saved(
    watched: WatchedPages, quick: str, tmp_path: Path
) -> None:
    page = watched.open(quick, width=1920, height=1080)
    page.locator("#lr-tour-start").focus()
    page.keyboard.press("Enter")
    page.locator("#lr-tour.lr-open").wait_for()
    page.wait_for_function(ALL_DONE)
    headlines = []
    for key in ("PageDown", "ArrowRight", "PageDown", "ArrowRight"):
        page.keyboard.press(key)
        headlines.append(page.locator("#lr-tour-headline").inner_text().partition(":")[0])
        assert page.locator(".lr-tour-figures dd").first.inner_text() == "0.2 s"
        assert page.locator(".lr-tour-note").inner_text().startswith("Ran on: ")
    assert headlines == ["Whole", "Tiled", "Streamed", "Remote"]
    assert page.locator(".lr-tour-pictures img").count() == 2, "and the map of the differences"
    page.keyboard.press("PageUp")
    assert slide(page) == 4
    page.keyboard.press("End")
    page.locator(".lr-tour-save").wait_for()
    with Image.open(saved(page, ".lr-tour-save")) as picture:
        assert picture.size == story.SIZE
    page.keyboard.press("Escape")
    page.locator("#lr-tour.lr-open").wait_for(state="detached")
    assert page.evaluate("document.activeElement.id") == "lr-tour-start"
    page.keyboard.press("ArrowRight")
    upload(page)
    paint(page)


def test_the_type_is_legible_from_ten_metres(watched: WatchedPages, quick: str) -> None:
    """36 pixels of 1080: on a screen of 1.2 m height 4 cm, of which 1 m away is 1/250 of the distance."""
    page = watched.open(quick, width=1920, height=1080)
    start(page)
    page.wait_for_function(ALL_DONE)
    for number in range(6):
        sizes = page.evaluate(
            """() => [...document.querySelectorAll('.lr-tour *')].filter(node => node.offsetParent !== null
                && [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()))
                .map(node => [parseFloat(getComputedStyle(node).fontSize), node.textContent])"""
        )
        assert sizes and min(sizes)[0] >= 36, min(sizes)
        assert page.evaluate(
            """() => { const box = document.querySelector('.lr-tour');
               return box.scrollHeight <= box.clientHeight && box.scrollWidth <= box.clientWidth; }"""
        ), f"slide {number + 1} fits the screen"
        page.keyboard.press("ArrowRight")


def test_it_can_be_ended_anywhere_and_nothing_is_computed_for_nobody(
    watched: WatchedPages, tmp_path: Path
) -> None:
    class Slow(FakeStudio):
        stopped = threading.Event()

        def events(self, job: Any, stop: threading.Event) -> Any:
            try:
                yield from super().events(job, stop)
            finally:
                if stop.is_set():
                    self.stopped.set()

    studio = Slow(pause=0.5)
    with page_of(studio, tmp_path) as url, contextlib.closing(watched):
        page = watched.open(url)
        start(page)
        page.keyboard.press("ArrowRight")
        page.locator(".lr-tour-note").get_by_text("Painting, step").wait_for()
        page.keyboard.press("Escape")
        page.locator("#lr-tour.lr-open").wait_for(state="detached")
        wait_until(studio.stopped.is_set)
        page.locator("#lr-tour-start:enabled").wait_for()
        start(page)  # and once more
        assert slide(page) == 1
        page.locator(".lr-tour-stop").click()


def test_the_page_behind_it_is_out_of_reach(watched: WatchedPages, quick: str) -> None:
    page = watched.open(quick)
    start(page)
    page.wait_for_function(ALL_DONE)
    for _ in range(12):
        page.keyboard.press("Tab")
        inside = "document.activeElement === document.body || !!document.activeElement.closest('#lr-tour')"
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    upload(page)


def test_a_phone_shows_it_too_in_its_language(watched: WatchedPages, quick: str) -> None:
    page = watched.open(quick, width=390, height=844, locale="de-DE")
    start(page)
    page.wait_for_function(ALL_DONE)
    page.locator(".lr-tour-next").click()
    assert page.locator("#lr-tour-headline").inner_text().startswith("Ganz: in einem Stück")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
