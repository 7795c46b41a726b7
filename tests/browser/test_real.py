"""The page's other journeys on the real built-in model: series, going on from a result, folds, stop, no motion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser.doing import open_tab, paint, saved, upload, wait_for_picture
from tests.browser.launching import WatchedPages


def recipe_of(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return dict(json.loads(image.text["latent-relay"])["recipe"])  # type: ignore[attr-defined]


def test_four_strengths_on_a_sheet(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    upload(page)
    page.locator("#lr-prompt textarea").fill("a lake in summer")
    page.locator("#lr-sweep").click()
    page.locator("#lr-viewer img[alt*='strength 0.3, strength 0.5, strength 0.7, strength 0.9']").wait_for()
    page.locator("#lr-paint:enabled").wait_for()
    assert page.locator("#lr-history button img").count() == 4
    with Image.open(saved(page, "#lr-save-picture")) as sheet:
        tiles = [sheet.convert("RGB").crop((x, y, x + 256, y + 256)) for y in (12, 306) for x in (12, 280)]
    assert len({tile.tobytes() for tile in tiles}) == 4, "each strength gives another picture"


def test_going_on_from_a_result_and_another_seed(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    upload(page)
    page.locator("#lr-prompt textarea").fill("mountains")
    paint(page)
    first = recipe_of(saved(page, "#lr-save-picture"))
    before = page.locator("#lr-picture img").first.get_attribute("src")
    page.locator("#lr-use").click()
    page.wait_for_function(
        "old => document.querySelector('#lr-picture img')?.getAttribute('src') !== old", arg=before
    )
    page.locator("#lr-again").click()
    page.locator("#lr-panel .lr-panel[data-state=running]").wait_for()
    wait_for_picture(page)
    second = recipe_of(saved(page, "#lr-save-picture"))
    assert second["seed"] != first["seed"] and second["prompt"] == first["prompt"]
    page.locator("#lr-advanced button").first.click()
    assert page.locator("#lr-seed input").input_value() == str(second["seed"])


def test_explanations_unfold(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    fold = page.locator("details", has_text="What is a VAE?")
    text = fold.get_by_text("squeezes the picture")
    assert not text.is_visible()
    fold.locator("summary").press("Enter")
    assert text.is_visible()


def test_stop_ends_a_real_run_and_the_next_one_works(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    upload(page)
    page.locator("#lr-advanced button").first.click()
    page.locator("#lr-steps input[type=number]").fill("100")
    page.locator("#lr-steps input[type=number]").blur()
    page.get_by_text("0.6 × 100 = 60 steps").wait_for()
    page.locator("#lr-paint").click()
    page.get_by_text("Painting, step").wait_for()
    page.locator("#lr-stop").click()
    page.get_by_text("Stopped. What was finished").wait_for()
    page.locator("#lr-steps input[type=number]").fill("5")
    page.locator("#lr-steps input[type=number]").blur()
    page.get_by_text("0.6 × 5 = 3 steps").wait_for()
    paint(page)


def test_nothing_moves_for_those_who_asked_for_it(watched: WatchedPages, url: str) -> None:
    def moving(page: Any) -> str:
        page.evaluate("""() => { const card = document.querySelector('#lr-panel .lr-stage');
            card.dataset.state = 'active'; }""")
        return str(
            page.evaluate("getComputedStyle(document.querySelector('#lr-panel .lr-stage')).animationName")
        )

    assert moving(watched.open(url, reduced_motion="reduce")) == "none"
    assert moving(watched.open(url, reduced_motion="no-preference")) == "lr-glow"


def test_the_transfer_is_chosen_recorded_and_shown(watched: WatchedPages, url: str) -> None:
    page = watched.open(f"{url}?transfer=jpg&mode=remote&seed=5")
    page.locator("#lr-remote .lr-light[data-state=up]").wait_for()
    upload(page)
    paint(page)
    table = page.locator("#lr-numbers table").inner_text()
    assert "as jpg, not lossless" in table
    assert recipe_of(saved(page, "#lr-save-picture"))["transfer"] == "jpg"
    page.locator("#lr-advanced button").first.click()
    page.locator("#lr-make-link").click()
    page.wait_for_function(
        "document.querySelector('#lr-link textarea, #lr-link input')?.value.includes('transfer=jpg')"
    )


def test_what_goes_in_is_shown_before_the_run(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    page.locator("#lr-advanced button").first.click()
    upload(page)
    page.locator("#lr-cut").get_by_text("All of it goes in").wait_for()
    for side, pixels in (("#lr-width", "256"), ("#lr-height", "128")):
        page.locator(f"{side} input").fill(pixels)
        page.locator(f"{side} input").blur()
    page.locator("#lr-cut").get_by_text("Cropped: this part").wait_for()
    page.locator("#lr-fit input[value=stretch]").check()
    page.locator("#lr-cut").get_by_text("Stretched").wait_for()
    assert page.locator("#lr-cut img").evaluate("image => image.naturalWidth") == 200


def test_stable_diffusion_has_its_own_examples_and_says_clearly_when_it_cannot_be_had(
    watched: WatchedPages, url: str
) -> None:
    page = watched.open(url)
    page.locator("#lr-model input").click()
    page.get_by_role("option", name="Stable Diffusion v1.5").click()
    page.get_by_text("The classic: any subject").wait_for()
    page.get_by_role("button", name="Mountains").click()
    page.get_by_text("0.75 × 50 = 38 steps").wait_for()
    prompt = page.locator("#lr-prompt textarea")
    page.wait_for_function(
        "document.querySelector('#lr-prompt textarea').value.startsWith('A fantasy landscape')"
    )
    page.locator("#lr-looks").get_by_role("button", name="Oil").click()
    page.wait_for_function("document.querySelector('#lr-prompt textarea').value.includes('impasto')")
    assert prompt.input_value().startswith("A fantasy landscape")
    page.locator("#lr-picture img").first.wait_for()
    page.locator("#lr-paint").click()
    page.locator("#lr-panel .lr-panel[data-state=bad]").wait_for()
    said = page.locator("#lr-panel .lr-status").inner_text()
    assert said == (
        "Stable Diffusion v1.5 is not on this computer yet, and the model hub cannot be reached. "
        "Please choose the built-in model, or try again later."
    )


def test_check_now_lights_up_the_apps_own_endpoint(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    open_tab(page, "Endpoints")
    assert "not asked yet" in page.locator("#lr-lights tbody tr").first.inner_text()
    page.locator("#lr-check").click()
    page.locator("#lr-lights .lr-light[data-state=up]").nth(1).wait_for()
    assert "answers · " in page.locator("#lr-lights tbody tr").first.inner_text()
