"""Compare, Will it fit? and Benchmark in a real browser, on the built-in model."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.browser.doing import open_tab
from tests.browser.launching import WatchedPages
from ui.theme import ASSETS


def test_compare_reads_a_row_for_each_way_and_a_conclusion(
    watched: WatchedPages, url: str, tmp_path: Path
) -> None:
    with Image.open(ASSETS / "sea.png") as picture:  # of no size that a model would choose
        picture.resize((300, 200)).save(tmp_path / "sea.png")
    page = watched.open(url)
    open_tab(page, "Compare")
    page.locator("#lr-compare-picture input[type=file]").set_input_files(tmp_path / "sea.png")
    page.locator("#lr-compare-picture img").first.wait_for()
    page.locator("#lr-compare").click()
    page.locator("#lr-compare-viewer .lr-frame[data-state=done]").wait_for()
    rows = page.locator("#lr-compare-table tbody tr")
    names = [
        name.strip().split("\n") for name in page.locator("#lr-compare-table tbody th").all_inner_texts()
    ]
    assert [name[0] for name in names] == ["whole", "streamed", "tiled"]
    assert names[1][1] == "the same picture"
    assert "reference" in rows.nth(0).inner_text() and "dB" in rows.nth(2).inner_text()
    assert (
        "Compared at 300 × 200 pixels, the picture’s own size."
        in page.locator("#lr-compare-verdict").inner_text()
    )
    page.locator("#lr-compare-heat img").wait_for()
    table = page.locator("#lr-compare-table .lr-scroll")
    assert table.evaluate("box => box.scrollWidth <= box.clientWidth"), "every column shows at 1280 pixels"
    page.set_viewport_size({"width": 390, "height": 844})
    assert table.evaluate("box => box.scrollWidth <= box.clientWidth")
    assert rows.nth(1).locator("td").first.evaluate("cell => getComputedStyle(cell).display") == "flex", (
        "stacked"
    )


def test_will_it_fit_answers_before_anything_is_pressed(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    open_tab(page, "This machine")
    page.locator("#lr-fit-answer table").wait_for()
    text = page.locator("#lr-fit-answer").inner_text()
    assert "96 %" in text and "only just" in text and "Streamed gives the same picture" in text


def test_benchmark_measures_row_by_row_and_draws(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    open_tab(page, "This machine")
    page.locator("#lr-bench-fold > button").click()
    for size in ("256", "512"):
        page.locator("#lr-bench-sizes").get_by_label(size, exact=True).uncheck()
    page.locator("#lr-bench").click()
    page.locator("#lr-bench-status").get_by_text("Time is the median").wait_for()
    assert page.locator("#lr-bench-table tbody tr").count() == 3
    assert "128 × 128" in page.locator("#lr-bench-table").inner_text()
    page.locator("#lr-plot-seconds svg path, #lr-plot-seconds canvas").first.wait_for()
