"""axe-core on every tab, in both themes and on a phone. No violation of ours; upstream's are listed by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH

from tests.browser.doing import open_tab, paint, tab_names, upload
from tests.browser.launching import WatchedPages

UPSTREAM = {
    # Gradio's footer: the settings link holds the word and an icon with the same alternative text.
    ("image-redundant-alt", 'img[alt="Settings"]'),
    # Gradio's placeholder in a plot without data: a div with a label but without a role.
    ("aria-prohibited-attr", '.empty.unpadded_box[aria-label="Empty value"]'),
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_no_violation_of_ours(watched: WatchedPages, quick: str, scheme: str, width: int) -> None:
    page = watched.open(f"{quick}?__theme={scheme}", width=width, color_scheme=scheme)
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))

    def violations() -> set[tuple[str, str]]:
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        all_found = {(rule["id"], node["target"][0]) for rule in found for node in rule["nodes"]}
        return {
            (rule, place)
            for rule, place in all_found
            if not any(rule == r and p in place for r, p in UPSTREAM)
        }

    assert violations() == set()
    upload(page)
    paint(page)
    page.locator("#lr-advanced button").first.click()
    for fold in page.locator("details").all():
        fold.evaluate("fold => fold.open = true")
    assert violations() == set()
    for name in tab_names(page)[1:]:
        open_tab(page, name)
        assert violations() == set(), name
    page.locator("#lr-tour-start").click()
    page.wait_for_function("document.querySelectorAll('.lr-tour-ways li[data-done]').length === 4")
    for number in range(6):
        assert violations() == set(), f"slide {number + 1}"
        page.keyboard.press("ArrowRight")
