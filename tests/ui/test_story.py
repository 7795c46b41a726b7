"""A run as one picture for a slide."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from backend.device.measure import PROCESSOR, processor_name
from backend.models import BUILTIN
from tests.fakes import FakeStudio, report
from tests.following import follow_page
from ui import story
from ui.form import Values
from ui.runs import Runs
from ui.theme import ASSETS

REPORTS = (report("encode"), report("denoise", "local", 1.5), report("decode", "remote", 0.4))


def told(prompt: str = "a lake", locale: str = "en", size: tuple[int, int] = (256, 256)) -> story.Story:
    before, after = (Image.new("RGB", size, colour) for colour in ("navy", "teal"))
    return story.of_run(before, after, prompt, "The model", REPORTS, locale)


def test_it_holds_the_numbers_of_each_stage_and_the_machine() -> None:
    made = told()
    assert made.total == "2.1 s" and [column.figure for column in made.columns] == ["0.2 s", "1.5 s", "0.4 s"]
    assert "410" in made.columns[0].lines[1] and "over the wire" in made.columns[2].lines[-1]
    assert made.bar == tuple((story.COLOURS[r.stage], r.cost.seconds) for r in REPORTS)
    assert "The model" in made.footer and "vae.example.org" in made.footer
    assert (processor_name() or str(PROCESSOR)) in made.footer, "a slide is shown elsewhere"


def test_an_unknown_number_is_left_out_and_never_zero() -> None:
    lines = told().columns[2].lines  # of a remote, whose memory nobody measured
    assert not any("0 B" in line or "peak" in line for line in lines)


@pytest.mark.parametrize("size", [(256, 256), (640, 256), (200, 700)])
def test_before_and_after_are_on_it_and_nothing_runs_off_the_edge(size: tuple[int, int]) -> None:
    page = story.draw(told("a very long prompt about mountains " * 30 + "x" * 400, size=size), "en")
    assert page.size == (1920, 1080)
    pixels = np.asarray(page)
    for colour in ((0, 0, 128), (0, 128, 128)):
        shown = (pixels == colour).all(axis=2)
        assert shown.sum() > 60_000
    margins = np.concatenate([pixels[:, :40].reshape(-1, 3), pixels[:, -40:].reshape(-1, 3)])
    assert (margins == (0xFA, 0xF8, 0xF4)).all(), "paper"


def test_each_language_gives_another_picture() -> None:
    pages = {story.draw(told(locale=locale), locale).tobytes() for locale in ("en", "de", "fr")}
    assert len(pages) == 3


def test_the_font_has_every_letter_of_the_pages_languages() -> None:
    from ui.languages import LANGUAGES

    letters = {letter for table in LANGUAGES.values() for text in table.values() for letter in text}
    for bold in (False, True):
        font = story._font(40, bold=bold)
        missing = bytes(font.getmask("\U0010ffff"))
        assert {letter for letter in letters if bytes(font.getmask(letter)) == missing} - {" "} <= {"\n"}


def test_its_address_gives_a_kept_runs_story_in_the_visitors_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    footers: list[str] = []
    draw = story.draw

    def watched(told: story.Story, locale: str) -> Image.Image:
        footers.append(told.footer)
        return draw(told, locale)

    monkeypatch.setattr(story, "draw", watched)
    runs = Runs(tmp_path)
    changes, view = follow_page(FakeStudio(), runs, Values(str(ASSETS / "sea.png"), "a boat"))
    link = [change[view.story] for change in changes if view.story in change][-1]
    assert link["interactive"] and link["link"].startswith("story/")
    with TestClient(
        Starlette(routes=[story.story_route(runs, {"builtin": BUILTIN.title_message})])
    ) as client:
        english, german = (
            client.get(f"/{link['link']}", headers={"accept-language": language})
            for language in ("en", "de-DE")
        )
        assert "attachment" in english.headers["content-disposition"]
        with Image.open(io.BytesIO(english.content)) as picture:
            assert picture.size == story.SIZE
        assert german.content != english.content
        assert "landscape painter" in footers[0] and "Landschaftsmaler" in footers[1]
        for guess in ("x" * 22, "..", "%2e%2e%2fsecret"):
            assert client.get(f"/story/{guess}").status_code == 404
