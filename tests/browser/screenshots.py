"""Pictures of every tab and of the tour, as a desktop or projector and a phone show them, light and dark.

python -m tests.browser.screenshots [FOLDER]      default tests/screenshots; add --fake for an instant Studio
python -m tests.browser.screenshots --readme      the README's, into docs/
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browser.doing import open_tab, paint, tab_names
from tests.browser.launching import browser, page_of
from ui.assets.paint import SEED

DOCS = Path(__file__).parent.parent.parent / "docs"
VIEWS = {
    "desktop": (1280, 900, "light"),
    "phone": (390, 844, "light"),
    "dark": (1280, 900, "dark"),
    "phone-dark": (390, 844, "dark"),
}
PROJECTOR = (1920, 1080)
ALL_WAYS = "document.querySelectorAll('.lr-tour-ways li[data-done]').length === 4"


def main() -> None:
    parser = argparse.ArgumentParser(description="Take pictures of the page.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent / "screenshots")
    parser.add_argument("--fake", action="store_true", help="use a Studio that answers at once")
    parser.add_argument("--view", choices=VIEWS, action="append", help="only this view")
    parser.add_argument("--locale", default="en-US", help="the browser's language, such as de-DE")
    parser.add_argument("--readme", action="store_true", help="take the README's pictures, into docs/")
    options = parser.parse_args()
    if options.readme:
        options.folder, options.view = DOCS, []
    options.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as runs,
        page_of(_studio(options.fake), Path(runs)) as url,
        browser() as chromium,
    ):
        if options.readme:
            shoot_readme(chromium, url, options.folder)
            return
        for view in options.view or VIEWS:
            shoot(chromium, url, view, options.folder, options.locale)


def _studio(fake: bool) -> Any:
    if fake:
        from tests.fakes import FakeStudio

        return FakeStudio()
    from backend.settings import Settings
    from backend.studio import Studio

    return Studio(Settings(model="builtin"))


def shoot_readme(chromium: Any, url: str, folder: Path) -> None:
    """A finished run and the endpoints tab on a desktop, a finished run on a phone in the dark, and two slides."""
    for view, name in (("phone-dark", "phone"), ("desktop", "page")):
        page = _opened(chromium, url, view)
        _paint_an_example(page)
        if view == "phone-dark":
            page.locator("#lr-paint").evaluate("button => button.scrollIntoView()")
        else:
            page.set_viewport_size({"width": 1280, "height": 1200})  # down to the numbers
        page.wait_for_timeout(400)
        page.screenshot(path=str(folder / f"{name}.png"))
        if view == "desktop":
            open_tab(page, "Endpoints")
            page.locator("#lr-check").click()
            page.locator("#lr-lights .lr-light[data-state=up]").first.wait_for()
            page.locator("#lr-address input, #lr-address textarea").first.fill(f"{url}vae/builtin")
            page.locator("#lr-test").click()
            page.locator("#lr-own-list table").wait_for()
            page.wait_for_timeout(400)
            page.screenshot(path=str(folder / "endpoints.png"), full_page=True)
        page.context.close()
    page = _opened(chromium, url, "desktop")
    for number in _slides(page):
        if number == 2:
            page.screenshot(path=str(folder / "tour.png"))
    with page.expect_download() as download:
        page.locator(".lr-tour-save").click()
    download.value.save_as(folder / "story.png")
    page.context.close()


def _slides(page: Any, size: tuple[int, int] = PROJECTOR) -> Iterator[int]:
    """Take the tour: each slide's number, once it is there and all is computed."""
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    page.locator("#lr-tour-start").click()
    page.wait_for_function(ALL_WAYS, timeout=240_000)
    for number in range(6):
        page.wait_for_timeout(500)
        yield number
        page.keyboard.press("PageDown")


def _opened(chromium: Any, url: str, view: str, locale: str = "en-US") -> Any:
    width, height, scheme = VIEWS[view]
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        locale=locale,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{url}?__theme={scheme}&seed={SEED}")
    page.locator("#lr-paint").wait_for()
    return page


def _paint_an_example(page: Any) -> None:
    page.locator("#lr-examples button").nth(1).click()
    page.locator("#lr-picture img").first.wait_for()
    paint(page)


def shoot(chromium: Any, url: str, view: str, folder: Path, locale: str) -> None:
    page = _opened(chromium, url, view, locale)
    view = f"{view}-{locale[:2]}"

    def take(name: str) -> None:
        page.wait_for_timeout(400)
        page.screenshot(path=str(folder / f"{view}-{name}.png"), full_page=True)

    page.wait_for_function("document.querySelector('#lr-viewer img.lr-after')?.naturalWidth > 0")
    take("1-start")
    _paint_an_example(page)
    take("2-done")
    page.locator("#lr-advanced button").first.click()
    take("3-advanced")
    for index, name in enumerate(tab_names(page)[1:]):
        open_tab(page, name)
        take(f"{4 + index}-{re.sub(r'[^a-z]+', '-', name.lower()).strip('-')}")
    for number in _slides(page, VIEWS["phone"][:2] if "phone" in view else PROJECTOR):
        page.screenshot(path=str(folder / f"{view}-tour-{number + 1}.png"))
    page.context.close()


if __name__ == "__main__":
    main()
