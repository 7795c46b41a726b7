"""axe-core on every tab, in both themes, on a phone and in each language, before and after a run: no violation. What
moves stands still for who asked for that, and the slider says its value."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH

from tests.browser.doing import open_tab, paint, tab_names, upload
from tests.browser.launching import WatchedPages, page_of
from tests.fakes import FakeStudio
from ui.text import say


@pytest.mark.parametrize(
    ("scheme", "width", "locale"),
    [
        ("light", 1280, "en-US"),
        ("dark", 1280, "de-DE"),
        ("light", 390, "fr-FR"),
        ("dark", 390, "en-US"),
        ("light", 390, "de-DE"),
    ],
)
def test_no_violation(watched: WatchedPages, quick: str, scheme: str, width: int, locale: str) -> None:
    page = watched.open(f"{quick}?__theme={scheme}", width=width, color_scheme=scheme, locale=locale)
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))

    def violations() -> set[tuple[str, str]]:
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return {(rule["id"], node["target"][0]) for rule in found for node in rule["nodes"]}

    names = tab_names(page)
    for name in reversed(names):  # before a run, and back to the first
        open_tab(page, name)
        assert violations() == set(), name
    upload(page)
    paint(page)
    page.locator("#lr-advanced button").first.click()
    for fold in page.locator("details").all():
        fold.evaluate("fold => fold.open = true")
    assert violations() == set()
    for name in names[1:]:
        open_tab(page, name)
        assert violations() == set(), name
    page.locator("#lr-tour-start").click()
    page.wait_for_function("document.querySelectorAll('.lr-tour-ways li[data-done]').length === 4")
    for number in range(6):
        assert violations() == set(), f"slide {number + 1}"
        page.keyboard.press("ArrowRight")


def test_the_slider_says_its_value_and_moves_by_keyboard(watched: WatchedPages, quick: str) -> None:
    page = watched.open(quick, locale="de-DE")
    upload(page)
    paint(page)
    slider = page.locator("#lr-viewer input[type=range]")
    assert slider.get_attribute("aria-label") == say("de", "slide")
    assert slider.get_attribute("aria-valuetext") == "50 % vorher"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "51 % vorher"
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0 % vorher"


MOVING = """() => [...document.querySelectorAll("[class*='lr-']")].filter((node) => {
  const style = getComputedStyle(node);
  const long = (list) => list.split(",").some((time) => parseFloat(time) > 0.02);
  return (style.animationName !== "none" && long(style.animationDuration)) || long(style.transitionDuration);
}).map((node) => node.className)"""


def test_nothing_of_ours_moves_where_less_motion_is_asked_for(watched: WatchedPages, tmp_path: Path) -> None:
    with page_of(FakeStudio(pause=0.5), tmp_path) as url, contextlib.closing(watched):
        found = {}
        for motion in ("reduce", "no-preference"):
            page = watched.open(url, reduced_motion=motion)
            upload(page)
            page.locator("#lr-paint").click()
            page.locator(
                "#lr-panel .lr-panel[data-state=running] .lr-stage[data-state=active]"
            ).first.wait_for()
            found[motion] = page.evaluate(MOVING)
            page.locator("#lr-stop").click()
            page.locator("#lr-paint:enabled").wait_for()
        assert found["reduce"] == [] and found["no-preference"], "else nothing was looked at"
