"""Pictures of every tab, as a desktop, a phone and a dark desktop show it.

python -m tests.browser.screenshots [FOLDER]      default tests/screenshots; add --fake for an instant Studio
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.doing import open_tab, tab_names
from tests.browser.launching import browser, page_of

VIEWS = {
    "desktop": (1280, 900, "light"),
    "phone": (390, 844, "light"),
    "dark": (1280, 900, "dark"),
    "phone-dark": (390, 844, "dark"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Take pictures of the page.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent / "screenshots")
    parser.add_argument("--fake", action="store_true", help="use a Studio that answers at once")
    parser.add_argument("--view", choices=VIEWS, action="append", help="only this view")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as runs,
        page_of(_studio(options.fake), Path(runs)) as url,
        browser() as chromium,
    ):
        for view in options.view or VIEWS:
            shoot(chromium, url, view, options.folder)


def _studio(fake: bool) -> Any:
    if fake:
        from tests.fakes import FakeStudio

        return FakeStudio()
    from backend.settings import Settings
    from backend.studio import Studio

    return Studio(Settings(model="builtin"))


def shoot(chromium: Any, url: str, view: str, folder: Path) -> None:
    width, height, scheme = VIEWS[view]
    context = chromium.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        locale="en-US",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{url}?__theme={scheme}")
    page.locator("#lr-paint").wait_for()

    def take(name: str) -> None:
        page.wait_for_timeout(400)
        page.screenshot(path=str(folder / f"{view}-{name}.png"), full_page=True)

    take("1-start")
    page.locator("#lr-examples button").first.click()
    page.locator("#lr-picture img").first.wait_for()
    page.locator("#lr-paint").click()
    page.locator("#lr-viewer .lr-frame[data-state=done]").wait_for(timeout=120_000)
    take("2-done")
    page.locator("#lr-advanced button").first.click()
    take("3-advanced")
    for index, name in enumerate(tab_names(page)[1:]):
        open_tab(page, name)
        take(f"{4 + index}-{re.sub(r'[^a-z]+', '-', name.lower()).strip('-')}")
    context.close()


if __name__ == "__main__":
    main()
