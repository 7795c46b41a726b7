"""What a person does on the page, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ui.theme import ASSETS

TABS = "#lr-tabs > .tab-wrapper"


def tab_names(page: Any) -> list[str]:
    return page.locator(f"{TABS} [role=tab]").all_text_contents()


def open_tab(page: Any, name: str) -> None:
    page.locator(f"{TABS} [role=tab]").get_by_text(name, exact=True).click()
    page.wait_for_timeout(300)  # it fades in
    page.wait_for_function(
        "!document.querySelector('.pending')"
    )  # what loads with the tab is pale until it is there


def upload(page: Any, path: Path = ASSETS / "mountains.png") -> None:
    page.locator("#lr-picture input[type=file]").set_input_files(path)
    page.locator("#lr-picture img").first.wait_for()
    page.locator("#lr-panel .lr-panel[data-state=example]").wait_for(state="detached")


def wait_for_picture(page: Any) -> None:
    """Until the run in progress has given its picture and the form is free again."""
    page.locator("#lr-panel .lr-panel[data-state=still] .lr-stage[data-state=done]").nth(2).wait_for()
    page.locator("#lr-viewer .lr-frame[data-state=done]").wait_for()
    page.locator("#lr-paint:enabled").wait_for()


def paint(page: Any) -> None:
    page.locator("#lr-paint").click()
    wait_for_picture(page)


def saved(page: Any, button: str) -> Path:
    with page.expect_download() as download:
        page.locator(button).click()
    return Path(download.value.path())
